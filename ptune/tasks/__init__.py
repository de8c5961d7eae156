"""Tasks. A new one is a folder here (spec.py, train.py, infer.py) and one line in `ptune.config.recipe.Task`."""
