"""Recommending: which items of a catalogue come next for somebody, by their titles and by who had what together."""
