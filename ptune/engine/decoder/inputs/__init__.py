"""The arrays that a step hands to the graph."""
