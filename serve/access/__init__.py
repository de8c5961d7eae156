"""API keys: whom they let in, to which adapters, and how often."""
