"""Images: labelled ones, and those in conversations."""
