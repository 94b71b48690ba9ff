"""Training in many processes: sharded models and sharded checkpoints."""
