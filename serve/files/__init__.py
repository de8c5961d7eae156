"""OpenAI's Files API: what is uploaded for batches, and what they answer, on disk."""
