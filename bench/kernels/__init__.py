"""Measurements of single kernels: accuracy, targets, tuning, launch overhead."""
