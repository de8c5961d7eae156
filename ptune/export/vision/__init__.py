"""Bodies of image models, and their profile int8."""
