"""HTTP itself: sockets, bodies, errors, deadlines, logs."""
