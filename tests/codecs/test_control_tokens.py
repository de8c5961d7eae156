"""What users write never becomes a control token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ptune.codecs.chat import ChatCodec
from ptune.errors import TemplateError

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
many = settings(max_examples=60)

attack = st.lists(
    st.sampled_from(
        [
            "<|im_end|>",
            "<|im_start|>",
            "</s>",
            "<s>",
            "<unk>",
            "<tool_call>",
            "[INST]",
            "<|im_",
            "end|>",
            "a",
            " ",
            "\n",
        ]
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=8,
).map("".join)


def controls(codec: ChatCodec, ids: Sequence[int]) -> Counter[int]:
    """How often each special token is among the ids."""
    special = {i for i, token in codec.tokenizer.get_added_tokens_decoder().items() if token.special}
    return Counter(token for token in ids if token in special)


def chat(text: str) -> list[dict[str, Any]]:
    """The text in every place where a user can write."""
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": text, "name": text},
        {
            "role": "assistant",
            "content": text,
            "tool_calls": [{"function": {"name": text, "arguments": {text: text}}}],
        },
        {
            "role": "tool",
            "content": [{"type": "text", "text": text}, {"type": "text", "text": "x"}],
            text: [text],
        },
        {"role": "user", "content": text},
    ]


def tools(text: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": text, "parameters": {"properties": {text: {"enum": [text]}}}},
        }
    ]


@many
@given(text=attack)
def test_prompts_hold_only_the_templates_own_control_tokens(codec_of, templates, byte_level, text):
    codec = codec_of(byte_level, templates["qwen2_5"])
    innocent = codec.encode_prompt(chat("x"), tools=tools("x"))
    attacked = codec.encode_prompt(chat(text), tools=tools(text))
    assert controls(codec, attacked) == controls(codec, innocent)
    everything = codec.tokenizer.decode(attacked, skip_special_tokens=False)
    assert everything == codec.template.render(
        *prompt_of(codec, text), tools=tools(text), add_generation_prompt=True
    )


def prompt_of(codec: ChatCodec, text: str) -> list[list[dict[str, Any]]]:
    flat = [{**message, "content": text} for message in chat(text)]
    flat[3]["content"] = text + "x"
    return [flat]


@many
@given(question=attack, answer=attack)
def test_examples_hold_only_the_templates_own_control_tokens(
    codec_of, templates, byte_level, question, answer
):
    codec = codec_of(byte_level, templates["smollm2"])
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    example = codec.encode_example(messages)
    assert controls(codec, example.ids) == controls(codec, codec.encode_example(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    ).ids)  # fmt: skip
    prompt = codec.encode_prompt(messages[:1])
    assert list(example.ids[: len(prompt)]) == prompt
    targets = [token for token, target in zip(example.ids, example.targets, strict=True) if target]
    assert codec.tokenizer.decode(targets, skip_special_tokens=False) == answer + "<|im_end|>"


@many
@given(prompt=attack, completion=attack)
def test_plain_text_holds_none(codec_of, byte_level, prompt, completion):
    codec = codec_of(byte_level, None)
    assert not controls(codec, codec.encode_text(prompt))
    assert controls(codec, codec.encode_completion(prompt, completion).ids) == {
        byte_level.token_to_id("</s>"): 1
    }
    assert codec.decode(codec.encode_text(prompt)) == prompt


@many
@given(text=attack)
def test_sentencepiece_prompts_hold_only_the_templates_own(codec_of, templates, sentencepiece, text):
    codec = codec_of(sentencepiece, templates["zephyr"])
    prompts = [codec.encode_prompt([{"role": "user", "content": content}]) for content in (text, "x")]
    assert controls(codec, prompts[0]) == controls(codec, prompts[1])
    assert set(controls(codec, codec.encode_text(text))) == {sentencepiece.token_to_id("<s>")}


def test_a_control_token_split_over_two_places_stays_text(codec_of, byte_level):
    codec = codec_of(byte_level, "{% for m in messages %}{{ m.content }}{% endfor %}")
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    assert not controls(codec, codec.encode_prompt([{"role": "user", "content": parts}]))
    assert controls(codec, codec.encode_completion("<|im_", "end|>").ids) == {
        byte_level.token_to_id("</s>"): 1
    }


def test_an_answer_may_hold_what_decoding_shows(codec_of, templates, byte_level):
    """A client sends back what the model wrote: <think> was a token then, and must be one again."""
    codec = codec_of(byte_level, templates["qwen3"])
    think = codec.tokenizer.token_to_id("<think>")
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    question = {"role": "user", "content": "<think>"}
    assert think in codec.encode_example([{"role": "user", "content": "x"}, answer]).ids
    assert think not in codec.encode_prompt([question])


def test_users_may_write_placeholders(codec_of, templates, byte_level):
    """Private-use characters of a user's own are told from those that stand for control tokens."""
    codec = codec_of(byte_level, templates["smollm2"])
    text = "\U000f0000<|im_end|>\U000f0001"
    ids = codec.encode_prompt([{"role": "user", "content": text}])
    assert text in codec.tokenizer.decode(ids, skip_special_tokens=False)


def test_white_space_tokens_are_text(codec_of, templates, byte_level):
    """A run of spaces is an added token of some vocabularies; users get it, too."""
    codec = codec_of(byte_level, "{% for m in messages %}    {{ m.content }}{% endfor %}")
    assert codec.tokenizer.token_to_id("    ") in codec.encode_prompt([{"role": "user", "content": "x    y"}])


def test_unigram_control_tokens_are_spelled_letter_by_letter(codec_of):
    """A Unigram model finds </s> among its own pieces, even where added tokens are ignored."""
    pieces = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in "</s>ax"),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    codec = codec_of(tokenizer, "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert [tokenizer.id_to_token(i) for i in codec.encode_prompt([{"role": "user", "content": "a</s>"}])] == [
        "a", "<", "/", "s", ">", "</s>",
    ]  # fmt: skip


def test_text_that_a_normaliser_turns_into_a_control_token_is_refused(codec_of):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_special_tokens([AddedToken("<stop>", special=True, normalized=True)])
    with pytest.raises(TemplateError, match="cannot tell"):
        codec_of(tokenizer, None).encode_text("＜stop＞")
