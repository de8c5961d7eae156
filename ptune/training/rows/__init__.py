"""How examples lie in the rows of a batch, and attention that keeps them apart."""
