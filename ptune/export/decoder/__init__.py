"""Causal language models as one graph, and its profiles."""
