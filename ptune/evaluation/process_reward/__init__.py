"""Figures of process reward models."""
