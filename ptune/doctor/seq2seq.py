"""Examines training pairs for an encoder-decoder, by the rules for translation."""

from __future__ import annotations

from tokenizers import Tokenizer

from ptune.backbone.seq2seq import load_seq2seq_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.doctor.examination import Examination, examine

# The doctor reads conversations: source, target and an end.
_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}\n"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def examine_seq2seq(recipe: Recipe) -> Examination:
    """Reads a recipe's data as in training, and returns every finding. Raises: as `examine`.

    The lengths of both sides are added, so that only pairs longer than two texts' limits count as too long here.
    """
    task, found = recipe.chat, load_seq2seq_codec(recipe.backbone)
    limit = found.texts.limit(task.max_length)
    texts = found.texts
    codec = ChatCodec(
        Tokenizer.from_str(texts.tokenizer.to_str()),  # a copy that reads special tokens
        _TEMPLATE,
        {**texts.special_tokens, "eos_token": str(texts.tokenizer.id_to_token(found.writing.eos_ids[0]))},
        found.writing.eos_ids,
        None,
    )
    longest = 2 * (task.max_length if limit is None else limit)
    changed = task.model_copy(update={"max_length": longest, "system": None, "template": None})
    return examine(recipe.data, changed, codec, recipe.train.seed)
