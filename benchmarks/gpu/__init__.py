"""What a GPU does with ptune: python -m benchmarks.gpu (benchmarks/gpu/__main__.py says what)."""
