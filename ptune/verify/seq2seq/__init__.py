"""The hops of encoder-decoders."""
