"""A head that has weights of its own beside a config that ties it to the embedding."""

from __future__ import annotations

from transformers import PreTrainedModel


def say_untied(model: PreTrainedModel) -> None:
    """Has the config say what was read, in place.

    transformers leaves a head untied where the files hold other weights for it than for the embedding, as of models that were trained
    further by other programs, whatever the config says. A graph or a folder that goes by the config would have the embedding's.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    text = model.config.get_text_config()
    if head is not None and text.tie_word_embeddings and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = text.tie_word_embeddings = False
