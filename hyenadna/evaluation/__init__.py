"""Perplexity, Markov baselines, metrics, baselines and probes."""
