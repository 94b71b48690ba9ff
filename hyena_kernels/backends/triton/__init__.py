"""Triton kernels of the ops and their launchers, one module for each op.

A kernel module holds its kernels first, then ``forward`` and ``backward``. Importing this package imports neither
Triton nor a kernel module. ``hyena_kernels.backend`` imports a kernel module at the first call that it runs, so
``import hyena_kernels`` is quick and works without Triton.
"""
