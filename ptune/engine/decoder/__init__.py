"""The engine of causal language models: continuous batching with a different adapter in every sequence."""
