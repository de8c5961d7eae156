"""What training puts into the layers of a model, or has them compute otherwise."""
