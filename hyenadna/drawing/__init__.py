"""Figures and HTML reports, from arrays and numbers alone."""
