"""Examines data before it trains a model: what would go wrong, in which file and line, and what to do about it."""
