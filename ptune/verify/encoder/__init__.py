"""The hops of encoders, for texts and images."""
