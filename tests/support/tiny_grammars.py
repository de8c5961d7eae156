"""Grammars over the vocabulary of the tiny tokenizer."""

from __future__ import annotations

from functools import partial

from tokenizers import Tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.engine.decoder.answers.grammar import Grammars
from support import tiny_tokenizers

VOCAB = tiny_tokenizers.VOCAB
END = frozenset({2})


def codec_of(tokenizer: Tokenizer) -> ChatCodec:
    return ChatCodec(tokenizer, None, {"eos_token": "</s>"}, END, None)


CODEC = codec_of(tiny_tokenizers.tokenizer().backend_tokenizer)
SPELL = partial(CODEC.encode_text, special=False)
GRAMMARS = Grammars(CODEC.token_table(VOCAB), CODEC.special_ids, SPELL)
