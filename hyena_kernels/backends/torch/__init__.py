"""The ops in plain PyTorch: the reference semantics, which run everywhere."""
