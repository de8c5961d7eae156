"""What a recipe may say: frozen, typed, torch-free."""
