"""Pretrained models: where they are, how they are loaded and quantised, and which weights exactly they hold."""
