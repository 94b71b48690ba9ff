"""Work that several processes do together: how they meet, and how models and checkpoints are divided among them."""
