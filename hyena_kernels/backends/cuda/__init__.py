"""The backend ``"cuda"``: the CUDA kernels of ``csrc/cuda``.

Each file is imported on first use. It allocates results and workspace with torch's allocator. The kernels allocate
nothing, run on the current stream and never wait. So a CUDA graph can capture all of it.
"""
