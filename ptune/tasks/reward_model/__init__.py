"""Rewards of answers, learnt from pairs."""
