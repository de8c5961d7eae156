"""The page: chat, classification, search, translation, in a process of its own."""
