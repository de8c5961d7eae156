"""The engine of encoder-decoders: a source is encoded once, its target decoded token by token."""
