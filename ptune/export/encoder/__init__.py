"""Encoders as a graph of the body and one for each head."""
