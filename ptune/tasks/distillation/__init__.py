"""Training of a student on what a teacher thinks likely."""
