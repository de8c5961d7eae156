"""Training on preferred and rejected answers."""
