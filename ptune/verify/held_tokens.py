"""The held-out tokens on which a decoder's profiles are compared; stored in the bundle, so that it can be verified anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path

from ptune.codecs.chat import ChatCodec
from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, write_json
from ptune.verify.limits import HELD_TOKENS

FILE = "golden/held.json"
PIECE = 128  # most tokens of a sequence: all their logits are in memory
LEAST = 8
SAMPLE = "devils_dictionary.test.jsonl"  # ships with ptune; the comparison measures rounding, not knowledge


def of_examples(examples: Sequence[Sequence[int]], codec: ChatCodec) -> list[tuple[int, ...]]:
    """Pieces of the examples' tokens, topped up from the sample text to at least HELD_TOKENS."""
    longest = min(PIECE, codec.context or PIECE)
    held: list[tuple[int, ...]] = []
    tokens = 0
    for piece in chain(_pieces(examples, longest), _pieces(_sample(codec), longest)):
        if tokens >= HELD_TOKENS:
            break
        held.append(piece)
        tokens += len(piece)
    return held


def _pieces(
    sequences: Sequence[Sequence[int]] | Iterator[Sequence[int]], longest: int
) -> Iterator[tuple[int, ...]]:
    for ids in sequences:
        for start in range(0, len(ids), longest):
            if len(piece := ids[start : start + longest]) >= LEAST:
                yield tuple(piece)


def _sample(codec: ChatCodec) -> Iterator[Sequence[int]]:
    """The sample's lines as plain text."""
    text = (resources.files("ptune.data") / "samples" / SAMPLE).read_text(encoding="utf-8")
    yield from (codec.encode_text(line) for line in text.splitlines())


def save(held: Sequence[Sequence[int]], bundle: Path) -> None:
    """Writes the tokens into a bundle."""
    write_json(bundle / FILE, {"format": 1, "sequences": [list(ids) for ids in held]})


def load(bundle: Path) -> list[tuple[int, ...]]:
    """Reads a bundle's tokens. Raises: FormatError."""
    path = bundle / FILE
    try:
        return [tuple(int(token) for token in ids) for ids in read_json(path)["sequences"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from None
