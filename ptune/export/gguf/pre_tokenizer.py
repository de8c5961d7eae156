"""Finds the name under which llama.cpp splits text as a tokenizer does, by trying."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from ptune.codecs.chat import ChatCodec
from ptune.errors import PtuneError, UsageError
from ptune.export.gguf.vocabulary import HARD, PRE, Vocabulary
from ptune.export.gguf.write import write_carrier
from ptune.llama_cpp.library import Llama

_KEY, _STRING = b"tokenizer.ggml.pre", 8


def pre_tokenizer(codec: ChatCodec, vocabulary: Vocabulary, library: Path) -> str:
    """The first name of PRE under which llama.cpp makes the tokens of HARD that the codec makes.

    Raises: UsageError where there is none, with a text that is split otherwise.
    """
    expected = [codec.encode_text(text, special=False) for text in HARD]
    names = PRE if vocabulary.model == "gpt2" else ("default",)
    nearest: tuple[int, str] = (-1, "any text")
    with tempfile.TemporaryDirectory() as folder:
        carrier = Path(folder) / "carrier.gguf"
        write_carrier(carrier, vocabulary, names[0])
        written = carrier.read_bytes()
        for name in names:
            carrier.write_bytes(_renamed(written, names[0], name))
            try:
                llama = Llama(library, carrier, 1, 0, 0)
            except PtuneError:  # a version that does not know the name
                continue
            same = [
                llama.tokenize(text, special=False) == ids for text, ids in zip(HARD, expected, strict=True)
            ]
            llama.close()
            if all(same):
                return name
            nearest = max(nearest, (sum(same), HARD[same.index(False)]))
    raise UsageError(
        "--gguf: llama.cpp splits text otherwise than this tokenizer under every name it knows; the nearest makes other"
        f" tokens of {nearest[1][:40]!r}"
    )


def _renamed(carrier: bytes, old: str, new: str) -> bytes:
    """The file with another name. What follows moves, which is no matter: its tensors are zeros, and some more are put behind."""
    head = _KEY + struct.pack("<I", _STRING)
    was, wanted = (struct.pack("<Q", len(name)) + name.encode() for name in (old, new))
    return carrier.replace(head + was, head + wanted, 1) + bytes(64)
