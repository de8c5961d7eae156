"""Retrieval: vectors of texts (embedding), and scores of pairs of texts (reranking)."""
