"""Examines data before training: finds defects, names file and line, and says what to do."""
