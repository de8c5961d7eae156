"""The version. In a module of its own, so that no layer imports the front door to tell it."""

__version__ = "0.1.0"
