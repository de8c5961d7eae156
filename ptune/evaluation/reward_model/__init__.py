"""Figures of reward models."""
