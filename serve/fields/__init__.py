"""What request bodies of all APIs are made of, and what becomes of a field that is not built."""
