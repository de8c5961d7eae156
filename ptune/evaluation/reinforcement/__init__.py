"""Figures of runs whose answers are rewarded."""
