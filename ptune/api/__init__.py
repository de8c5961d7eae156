"""The Python API: what `import ptune` gives. Each function is one file; docs/python.md shows them all."""
