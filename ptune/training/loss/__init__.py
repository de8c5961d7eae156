"""Losses, computed in the output head a chunk of targets at a time."""
