"""The tab Recipe."""
