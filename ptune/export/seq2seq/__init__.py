"""Encoder-decoders as two graphs."""
