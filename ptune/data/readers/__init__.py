"""One reader for each file format; `ptune.data.read` finds the right one."""
