"""Bytes and operations of every workload, and predicted times."""
