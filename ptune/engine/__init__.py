"""The engine: bundles on onnxruntime, many adapters in one batch. Torch-free."""
