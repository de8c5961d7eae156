"""Linear layers on weights as ready-made checkpoints pack them: a file for each format, and a table of them (`formats`)."""
