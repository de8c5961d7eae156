"""Tokenizers as llama.cpp has them: the same tokens of hard texts, whichever way a tokenizer splits and spells them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import httpx
import pytest
from support.tiny_tokenizers import CHATML, SPECIAL, _sample_lines
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from ptune.codecs.chat import ChatCodec
from ptune.errors import UsageError
from ptune.export.gguf.vocabulary import HARD, vocabulary_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp is not installed: pip install xllamacpp"
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
UNKNOWN = r"[aeiou]+|[^aeiou]+"  # nobody splits so
TEXTS = [message["content"] for line in _sample_lines() for message in line["messages"]] + [*HARD] * 9


def byte_level(pattern: str | None, *, digits: bool = False, bos: bool = False) -> Tokenizer:
    """Byte-level BPE. pattern: how text is split; None: as GPT-2. digits: each alone."""
    tokenizer = Tokenizer(models.BPE())
    steps: list[pre_tokenizers.PreTokenizer] = (
        [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    )
    if pattern is None:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    else:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def sentencepiece(*, prefix: bool) -> Tokenizer:
    """BPE as Llama 2 (with a space before each text) and Gemma (without) have it: bytes for unknown characters, all merges."""
    space = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    plain = Tokenizer(models.BPE())
    plain.normalizer = normalizer
    plain.train_from_iterator(TEXTS[:60], trainers.BpeTrainer(vocab_size=500, show_progress=False))
    pieces = [piece for piece, _ in sorted(plain.get_vocab().items(), key=lambda one: one[1])]
    head = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: at for at, piece in enumerate([*head, *pieces])}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<pad>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def codec_of(tokenizer: Tokenizer, **options: str) -> ChatCodec:
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return ChatCodec(tokenizer, options.get("template", CHATML), special, [2, 4], 64, options.get("system"))


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: byte_level(None),
        lambda: byte_level(None, digits=True),
        lambda: byte_level(QWEN),
        lambda: byte_level(LLAMA3, bos=True),
        lambda: sentencepiece(prefix=True),
        lambda: sentencepiece(prefix=False),
    ],
    ids=["gpt2", "digits", "qwen", "llama3", "llama2", "gemma"],
)
def test_same_tokens(tokenizer: object, tmp_path: Path) -> None:
    from ptune.export.gguf.pre_tokenizer import pre_tokenizer
    from ptune.export.gguf.write import write_carrier
    from ptune.llama_cpp.library import Llama, required_library

    assert callable(tokenizer)
    codec = codec_of(tokenizer())
    vocabulary = vocabulary_of(codec, codec.vocab_size)
    pre = pre_tokenizer(codec, vocabulary, required_library())
    write_carrier(tmp_path / "carrier.gguf", vocabulary, pre)
    llama = Llama(required_library(), tmp_path / "carrier.gguf", 1, 0, 0)
    for text in TEXTS[:150]:
        assert (
            llama.tokenize(text, special=False) == codec.tokenizer.encode(text, add_special_tokens=False).ids
        )
        assert llama.tokenize(text, whole=True) == codec.tokenizer.encode(text).ids
    assert llama.tokenize("<|im_start|>user")[0] == 3
    assert [token for token in range(8) if llama.ends(token)] == [2, 4]
    llama.close()


def test_what_nobody_splits_so_is_refused() -> None:
    from ptune.export.gguf.pre_tokenizer import pre_tokenizer
    from ptune.llama_cpp.library import required_library

    codec = codec_of(byte_level(UNKNOWN))
    with pytest.raises(UsageError, match=r"llama.cpp splits text otherwise than this tokenizer"):
        pre_tokenizer(codec, vocabulary_of(codec, codec.vocab_size), required_library())


def test_other_tokenizers_are_refused() -> None:
    codec = codec_of(Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, unk_token="a")))
    with pytest.raises(UsageError, match="of type WordLevel; only BPE"):
        vocabulary_of(codec, 3)


@pytest.mark.parametrize("lead", ["", "\n"], ids=["at once", "after a line end"])
def test_llama_server_brings_the_system_message_of_the_training(lead: str, tmp_path: Path) -> None:
    from ptune.export.gguf.write import write_carrier
    from ptune.llama_cpp.server import serving

    said = 'Say "no" {twice}.\n{% raw %}\t\\n « non »\u00a0🙂'
    codec = codec_of(byte_level(None), system=said, template=lead + CHATML)
    write_carrier(tmp_path / "model.gguf", vocabulary_of(codec, codec.vocab_size), "gpt-2")
    asked = [{"role": "user", "content": "Hi"}]
    assert codec.template is not None
    with serving(tmp_path / "model.gguf", context=64) as url:
        for first, meant in (([], said), ([{"role": "system", "content": "Other."}], "Other.")):
            answer = httpx.post(
                f"{url}/apply-template", json={"messages": [*first, *asked]}, timeout=60, trust_env=False
            )
            assert answer.json()["prompt"] == codec.template.render(
                [{"role": "system", "content": meant}, *asked], add_generation_prompt=True
            )
