"""The fields of a recipe: frozen, typed, torch-free."""
