"""``python -m hyena_kernels``: what is installed, what will run here, and why the rest will not."""

from hyena_kernels.backend import describe

if __name__ == "__main__":
    print(describe())
