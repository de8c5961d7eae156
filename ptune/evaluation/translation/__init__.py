"""Evaluation of translation: how close a model's texts are to people's."""
