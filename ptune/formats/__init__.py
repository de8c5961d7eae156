"""On-disk contracts: the run folder, the bundle folder and the graph's signature. Torch-free."""
