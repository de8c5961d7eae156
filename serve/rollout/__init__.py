"""A canary that is judged by what its users say, and promoted or rolled back on its own."""
