"""Baselines: the published op sequence, attention, and convolutions of other packages."""
