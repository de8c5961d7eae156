"""What a teacher thought likely, for distillation."""
