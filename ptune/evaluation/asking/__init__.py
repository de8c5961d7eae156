"""Asks a run's model about one input, before and after training, without an export."""
