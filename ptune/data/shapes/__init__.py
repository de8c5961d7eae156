"""What rows hold, recognised by their columns: conversations, preferences, labels, pairs, prompts."""
