"""Figures and HTML reports, made from arrays and numbers only."""
