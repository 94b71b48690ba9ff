"""Every configuration of every Triton kernel, one module for each op."""
