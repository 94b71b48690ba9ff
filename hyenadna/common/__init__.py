"""What every room uses: errors, files, progress, names of files. Imports neither torch nor transformers."""
