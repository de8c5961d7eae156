"""Memory of a training: what saves it, and what to say when it runs out."""
