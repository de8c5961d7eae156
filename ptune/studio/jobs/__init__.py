"""Jobs: a queue on disk, and the processes that run them."""
