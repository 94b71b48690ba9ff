"""What hyena_kernels is measured against, each written as plainly as its original."""
