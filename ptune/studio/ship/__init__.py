"""The tab Ship."""
