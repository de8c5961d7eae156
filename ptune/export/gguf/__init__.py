"""GGUF: a model, or a LoRA adapter of it, as llama.cpp reads them."""
