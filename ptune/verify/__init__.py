"""Measures every hop from training to the streamed token against the hop before it.

This is the only part of ptune that sees torch, the exporter's graph and the engine together.
"""
