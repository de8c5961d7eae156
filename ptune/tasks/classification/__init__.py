"""Classification: an encoder with a head that says which labels fit a text, a token of a text, or an image."""
