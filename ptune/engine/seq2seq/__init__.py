"""The engine of encoder-decoders: a source is read once, its target decoded token by token."""
