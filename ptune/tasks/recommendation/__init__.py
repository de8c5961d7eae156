"""Recommendation: the next items of a catalogue for a user, by their titles and by which items users had together."""
