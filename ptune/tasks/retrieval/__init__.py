"""Retrieval: texts become vectors (embeddings), and pairs of texts get a score (reranking)."""
