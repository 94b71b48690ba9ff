"""The model: configuration, transformers classes, tokenizer, checkpoints."""
