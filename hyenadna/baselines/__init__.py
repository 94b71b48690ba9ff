"""Models of other kinds to compare HyenaDNA with: a GPT, a convolutional network and k-mers as tokens."""
