"""Adapters: read from PEFT folders, checked, kept in memory within a limit."""
