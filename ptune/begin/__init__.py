"""The beginning of a project: a recipe for a task, a model and data, and a sample of data to edit. Torch-free."""
