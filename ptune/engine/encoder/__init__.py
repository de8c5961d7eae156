"""The engine of encoders: one padded pass of the body, a head for each adapter."""
