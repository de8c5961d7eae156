"""The tab Serve."""
