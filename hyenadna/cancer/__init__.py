"""Cancer types from mutated reference sequence: the tables of windows, and the study on them."""
