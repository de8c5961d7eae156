"""The hops of causal language models."""
