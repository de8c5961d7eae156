"""The tab Run."""
