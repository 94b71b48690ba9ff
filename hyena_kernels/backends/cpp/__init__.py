"""The backend ``"cpp"``: the C++ kernels of ``csrc/cpu``.

Each file allocates the results of one op and calls ``torch.ops.hyena_kernels_ext``, whose schemas are in
``schemas.py``. It is imported on first use.
"""
