"""Benchmarks of hyena_kernels and the peers it is measured against."""
