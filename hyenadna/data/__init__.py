"""Genomes, intervals, windows, sequences, variants and tables."""
