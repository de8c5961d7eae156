"""Search: many short trainings of one recipe, and what they say about its fields."""
