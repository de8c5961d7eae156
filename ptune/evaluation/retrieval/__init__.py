"""Evaluation of retrieval: how passages are ranked for held-out queries."""
