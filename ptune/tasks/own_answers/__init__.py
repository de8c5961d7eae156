"""What tasks share that learn from the model's own answers, which the engine samples."""
