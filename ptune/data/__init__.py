"""From files to tokenised examples. Torch-free."""
