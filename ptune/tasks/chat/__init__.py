"""Chat: a causal language model answers messages, or completes a prompt."""
