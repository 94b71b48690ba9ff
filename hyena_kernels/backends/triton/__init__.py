"""Triton kernels of the ops and what launches them, one module for each op's file of the same name.

A kernel module holds its kernels first, then ``forward`` and ``backward`` with the arguments of the op's plain PyTorch
implementation. Nothing is imported here: ``hyena_kernels.backend`` imports a kernel module at the first call that it
runs, so that ``import hyena_kernels`` neither needs Triton nor waits for it.
"""
