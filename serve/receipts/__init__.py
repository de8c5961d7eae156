"""Receipts: what it takes to compute an answer again, to the token, and that nobody has changed it."""
