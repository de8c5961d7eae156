"""A codec with a real tokenizer, and any chat template."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ptune.codecs.chat import ChatCodec


def real_codec(template: str | None, system: str | None = None) -> ChatCodec:
    """Each byte is a token; then come two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("</s>", "<|end|>")])
    return ChatCodec(tokenizer, template, {"eos_token": "</s>"}, (), None, system)
