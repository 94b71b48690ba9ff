"""How an op becomes an operator of torch: argument checks, definition, fast calls."""
