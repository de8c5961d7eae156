"""Training on a model's own answers, which functions reward."""
