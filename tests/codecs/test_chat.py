"""The codec against transformers, and what training sees against what serving feeds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptune.codecs.chat import ChatCodec, Example
from ptune.errors import TemplateError

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
QUESTION = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "world!"}


def codec_of(tokenizer: Tokenizer, template: str | None, **changes: Any) -> ChatCodec:
    options = {"special_tokens": SPECIAL_TOKENS, "eos_ids": (), "context": None, **changes}
    return ChatCodec(Tokenizer.from_str(tokenizer.to_str()), template, **options)


def reference_of(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), **SPECIAL_TOKENS)


def target_texts(codec: ChatCodec, example: Example) -> list[str]:
    """The text of each run of targets, special tokens included."""
    runs: list[list[int]] = []
    for index, (token, target) in enumerate(zip(example.ids, example.targets, strict=True)):
        if target and not example.targets[index - 1]:
            runs.append([])
        if target:
            runs[-1].append(token)
    return [codec.tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def first_targets(example: Example) -> list[int]:
    """Where each run of targets begins."""
    return [i for i, target in enumerate(example.targets) if target and not (i and example.targets[i - 1])]


def rendered_by(codec: ChatCodec, messages: list[dict[str, Any]], **options: Any) -> str | None:
    assert codec.template is not None
    try:
        return codec.template.render(messages, **options)
    except TemplateError:
        return None


# Tokens: the same as transformers gives.


@given(data=st.data())
def test_prompts_have_the_ids_that_transformers_gives(source, chats, byte_level, data):
    messages = data.draw(chats)
    codec = codec_of(byte_level, source)
    if rendered_by(codec, messages) is None:
        return
    expected = reference_of(byte_level).apply_chat_template(
        messages, chat_template=source, add_generation_prompt=True, return_dict=False
    )
    assert codec.encode_prompt(messages) == expected
