"""The endpoint of translations, by decoders and encoder-decoders."""
