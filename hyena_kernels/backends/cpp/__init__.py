"""The compiled backends ``"cpp"`` and ``"cuda"``: what the ops hand to the C++/CUDA extension, and its loading.

One module an op allocates the results and calls ``torch.ops.hyena_kernels_ext``; the same schemas, in
:mod:`hyena_kernels.backends.cpp.schemas`, are implemented for the CPU by ``csrc/cpu`` and for CUDA by ``csrc/cuda``.
Imported on first use only.
"""
