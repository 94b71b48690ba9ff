"""Figures that papers and their sources publish, as data."""
