"""Codecs: one way from text to tokens and back, for training and for serving. Torch-free."""
