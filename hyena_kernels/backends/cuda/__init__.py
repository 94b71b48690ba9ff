"""The backend ``"cuda"``: what the ops hand to the CUDA kernels of ``csrc/cuda``.

One module an op, imported on first use. Results and workspace are allocated here, by torch's allocator; the kernels
allocate nothing, run on the current stream and never wait, so that all of it can be captured in a CUDA graph.
"""
