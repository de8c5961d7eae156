"""The tab Judge."""
