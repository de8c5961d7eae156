"""Methods decide which weights are trained. Each is its own config: `Lora(r=16).apply(model)`.

A new method is a file here, and its name in the type `ptune.config.recipe.Method`.
"""
