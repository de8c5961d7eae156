"""The endpoints of encoders: labels, entities, vectors, rankings, recommendations."""
