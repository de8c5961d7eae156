"""`ptune studio`: a page on which data becomes a recipe, a recipe a run, and a run a bundle that serves. Torch-free.

All state is in files: a workspace's recipes, runs and bundles, and the folder of jobs. What needs torch runs as a child,
`ptune …`, whose command line the page shows.
"""
