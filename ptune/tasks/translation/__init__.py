"""Translation of texts from one language into another."""
