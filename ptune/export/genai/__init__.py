"""A model as onnxruntime-genai reads it, with places for LoRA adapters."""
