"""Whether a server that somebody else runs answers as the adapter that was trained."""
