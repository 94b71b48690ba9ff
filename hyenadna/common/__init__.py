"""Errors, files, progress and names that every room uses. Imports neither torch nor transformers."""
