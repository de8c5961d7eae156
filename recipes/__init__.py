"""Recipes: one file a use. Run one with `ptune train chat_lora` or `accelerate launch recipes/chat_lora.py`."""
