"""Adapters and aliases: added, moved and removed while the server runs."""
