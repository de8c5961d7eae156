"""Methods: which weights are trained. Each is its own config: `Lora(r=16).apply(model)`.

A new one is a file here and its name in `ptune.config.recipe.Method`, the type, and in `ptune.config.recipe.METHODS`, the table.
"""
