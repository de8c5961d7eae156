"""A canary that is judged by what its users say, or by its loss on held-out texts, and promoted or rolled back on its own."""
