"""Training on labelled sequences."""
