"""Training a language model on a genome."""
