"""Tokenised examples: encoded, cut to length, stored."""
