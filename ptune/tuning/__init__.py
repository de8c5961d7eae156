"""Hyperparameter search: many short trainings of one recipe, and which of its fields matter."""
