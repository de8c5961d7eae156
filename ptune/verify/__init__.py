"""Every hop from training to the streamed token, compared in numbers with the hop before it.

The only part of ptune that sees torch, the exporter's graph and the engine together.
"""
