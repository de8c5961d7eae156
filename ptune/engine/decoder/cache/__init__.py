"""Keys, values and states of sequences: slots, prefixes, budgets, blocks on disk."""
