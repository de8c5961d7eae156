"""How a GGUF file's tokenizer splits text before byte-level BPE.

The file names it (`tokenizer.ggml.pre`), as llama.cpp knows it. transformers reads the name of few architectures and splits as
GPT-2 does in the others, so that digits, contractions and line ends become other tokens than those the model was trained on.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from ptune.progress import say

_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_UP_TO_THREE_DIGITS = frozenset(
    {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
)
_QWEN = frozenset({"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"})
_AS_TRANSFORMERS = frozenset({"gpt-2", "phi-2", "olmo", "mpt", "jais", "default"})

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split_as_in(file: Path, tokenizer: Tokenizer) -> None:
    """Makes `tokenizer`, read by transformers from a GGUF file of byte-level BPE, split as the file says; in place.

    Says so where ptune does not know the file's way.
    """
    from gguf import GGUFReader

    reader = GGUFReader(str(file))  # as transformers names it, so that `read_once` parses the file once
    model, name = (reader.get_field(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if name is None or model is None or model.contents() != "gpt2":
        return
    splitting = splitting_of(str(name.contents()))
    if splitting is not None:
        tokenizer.pre_tokenizer = splitting
    elif name.contents() not in _AS_TRANSFORMERS:
        say(
            f"warning: {file.name} splits text as {name.contents()!r}, which is not known here: transformers' way is taken, which"
            " may make other tokens of numbers; the model's own folder has the right one"
        )


def splitting_of(name: str) -> PreTokenizer | None:
    """The way that llama.cpp calls `name`; None if it is not known, or is what transformers does anyway."""
    if name in _BY_DIGIT:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    digits = r"\p{N}{1,3}" if name in _UP_TO_THREE_DIGITS else r"\p{N}" if name in _QWEN else None
    if digits is None:
        return None
    pattern = Split(Regex(_WORDS + digits + _REST), "isolated")
    return Sequence([pattern, ByteLevel(add_prefix_space=False, use_regex=False)])
