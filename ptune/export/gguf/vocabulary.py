"""A codec's tokenizer, special tokens and chat template, as keys of a GGUF file.

llama.cpp splits text by a regular expression that it knows by name (`tokenizer.ggml.pre`). Which name a tokenizer goes by is not
looked up but tried: the first under which llama.cpp makes the same tokens of hard texts (ptune/export/gguf/pre_tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import TokenType

from ptune.codecs.chat import ChatCodec
from ptune.codecs.served_template import served_template
from ptune.errors import UsageError

PRE = (
    "gpt-2", "llama-bpe", "qwen2", "smollm", "default", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3",
    "starcoder", "refact", "command-r", "olmo", "dbrx", "stablelm2", "falcon", "mpt", "smaug-bpe", "chatglm-bpe", "exaone",
    "llama4", "pixtral", "seed-coder", "hunyuan", "kimi-k2", "superbpe", "bloom", "viking", "jais", "codeshell", "minerva-7b",
)  # fmt: skip
"""Names of llama.cpp's for splitting text before byte-level BPE."""

HARD = (
    "Hello, world! I'm here; we'LL see THEY'VE gone. don't DON'T",
    "1 12 123 1234 12345 123456789 3.14159 1,000,000 ½ ² ٣٤",
    "  two spaces   three\t\ttabs\n\nlines\r\n \n  end   ",
    "naïve café Ünïcödé Привет мир 你好世界 こんにちは 안녕 ไทย नमस्ते العربية עברית",
    "emoji 🙂👍🏽👨‍👩‍👧 symbols ≤≥±∑ $100 #tag @name a_b-c.d/e\\f ==> {}[]<>|~^`",
    'def f(x):\n    return x**2  # comment\n\tif x: pass\n<p class="a">&nbsp;</p> https://a.b/c?d=e&f=1',
    "....... !!!??? ---- ____ ''' \"\"\" CamelCase snake_case ALLCAPS mIxEd",
)
"""Texts that tell ways of splitting apart."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    model: str  # gpt2 (bytes) or llama (sentencepiece)
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]  # of gpt2
    scores: list[float]  # of llama
    ids: dict[str, int]  # bos, eos, unk, pad: token
    add_bos: bool
    add_eos: bool
    prefix: bool  # a space stands before each text
    template: str | None

    def write(self, writer: gguf.GGUFWriter, pre: str) -> None:
        """pre: one of PRE, of byte-level BPE alone."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
        said: dict[str, Callable[[int], None]] = {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "eot": writer.add_eot_token_id,
            "unk": writer.add_unk_token_id,
            "pad": writer.add_pad_token_id,
        }
        for name, token in self.ids.items():
            said[name](token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.prefix)
        if self.template is not None:
            writer.add_chat_template(self.template)


def vocabulary_of(codec: ChatCodec, rows: int) -> Vocabulary:
    """rows: of the model's embedding; tokens that have none cannot be said.

    Raises: UsageError for a tokenizer that is neither byte-level BPE nor sentencepiece's BPE.
    """
    described = json.loads(codec.tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise UsageError(f"--gguf: its tokenizer is of type {model['type']}; only BPE is written as GGUF")
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    bytes_in_tokens = bool(model.get("byte_fallback"))
    tokens, types = _tokens(codec, rows, bytes_in_tokens=bytes_in_tokens)
    first, last = around_text(codec)
    ids = _special(codec, rows)
    if first not in ((), (ids.get("bos"),)) or last not in ((), (ids.get("eos"),)):
        raise UsageError(
            f"--gguf: its tokenizer puts {first} before and {last} after a text, more than BOS and EOS"
        )
    return Vocabulary(
        model="llama" if bytes_in_tokens else "gpt2",
        tokens=tokens,
        types=types,
        merges=[" ".join(merge) for merge in merges],
        scores=_scores(tokens, merges),
        ids=ids,
        add_bos=bool(first),
        add_eos=bool(last),
        prefix=_prefixed(described) if bytes_in_tokens else False,
        template=served_template(codec),
    )


def around_text(codec: ChatCodec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that the tokenizer puts before and after any text."""
    whole, plain = codec.encode_text("a"), codec.encode_text("a", special=False)
    start = next(at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
    return tuple(whole[:start]), tuple(whole[start + len(plain) :])


def _special(codec: ChatCodec, rows: int) -> dict[str, int]:
    """Tokens by llama.cpp's names. Where an answer ends at other tokens than EOS, too, one of them is its end of a turn."""
    named = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}
    found = {
        short: token
        for short, name in named.items()
        if (token := codec.tokenizer.token_to_id(codec.special_tokens.get(name, ""))) is not None
        and token < rows
    }
    others = sorted(token for token in codec.eos_ids - {found.get("eos")} if token < rows)
    if "eos" not in found and others:
        found["eos"] = others.pop(0)
    if others:
        found["eot"] = others[0]
    return found


def _tokens(codec: ChatCodec, rows: int, *, bytes_in_tokens: bool) -> tuple[list[str], list[TokenType]]:
    added = codec.tokenizer.get_added_tokens_decoder()
    unknown = codec.tokenizer.token_to_id(codec.special_tokens.get("unk_token", ""))
    tokens, types = [], []
    for token in range(rows):
        text, kind = codec.tokenizer.id_to_token(token), TokenType.NORMAL
        if text is None:
            text, kind = f"[PAD{token}]", TokenType.UNUSED
        elif token in added:
            text = added[token].content
            kind = TokenType.CONTROL if added[token].special else TokenType.USER_DEFINED
        if token == unknown and bytes_in_tokens:
            kind = TokenType.UNKNOWN
        elif bytes_in_tokens and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kind = TokenType.BYTE
        tokens.append(text)
        types.append(kind)
    return tokens, types


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """sentencepiece's scores, of which llama.cpp merges the highest first: the order of the merges."""
    rank: dict[str, int] = {}
    for at, (left, right) in enumerate(merges):
        rank.setdefault(left + right, at)
    return [-float(rank.get(token, 0)) for token in tokens]


def _prefixed(described: dict[str, Any]) -> bool:
    """Whether sentencepiece's space stands before each text."""
    return '"Prepend"' in json.dumps(described.get("normalizer")) or (
        '"prepend_scheme": "first"' in json.dumps(described.get("pre_tokenizer"))
        or '"prepend_scheme": "always"' in json.dumps(described.get("pre_tokenizer"))
    )
