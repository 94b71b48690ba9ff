"""Registers, stack, shared memory and occupancy of the GPU kernels, compiled without a GPU.

Not part of the installed package: it serves the tests and ``docs/kernels/resources.md``.
"""
