"""Benchmarks of hyena_kernels and of other implementations."""
