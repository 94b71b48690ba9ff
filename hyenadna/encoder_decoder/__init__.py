"""ENBED: an encoder-decoder over bytes, with a window and global tokens in the encoder's attention."""
