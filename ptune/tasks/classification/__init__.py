"""Classification: an encoder with a head that predicts labels of a text, of its words, or of an image."""
