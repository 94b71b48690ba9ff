"""The ops in plain PyTorch. They define the results and run everywhere."""
