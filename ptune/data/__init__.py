"""Reads data files and makes tokenised examples. Torch-free."""
