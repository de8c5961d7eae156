"""Methods: which weights are trained. Each is its own config: `Lora(r=16).apply(model)`.

A new one is a file here and one line in `ptune.config.recipe.Method`.
"""
