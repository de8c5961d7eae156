"""The Python API behind `import ptune`, one file per function; docs/python.md shows them all."""
