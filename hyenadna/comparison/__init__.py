"""Published tables beside the results on this machine."""
