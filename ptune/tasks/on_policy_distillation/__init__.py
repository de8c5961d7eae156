"""Training of a student on its own answers, which a teacher judges token by token."""
