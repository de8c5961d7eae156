"""Training rows as the model sees them: token by token, and which tokens it learns to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ptune.codecs.chat import ChatCodec, Example
from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.data.examples.sequences import SequenceExample
from ptune.doctor.classification import LabelledSets
from ptune.doctor.finding import Place
from ptune.doctor.split_statistics import Ledger

MOST_TOKENS = 600  # of a row; what is left out is counted
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def of_chat(ledger: Ledger, codec: ChatCodec, count: int) -> list[dict[str, Any]]:
    """The first rows of a split of conversations or texts, in JSON types: place, tokens as [text, learned], length."""
    return [
        _row(place, list(_pieces(example, codec)), len(example)) for place, example in ledger.first[:count]
    ]


def of_labels(sets: LabelledSets, codec: SequenceCodec, count: int) -> list[dict[str, Any]]:
    """The first training rows of texts or words, in JSON types: place, tokens as [text, learned], label, length.

    Of tagged words, a token that a word begins with has the word's tag in the place of `learned`.
    """
    if sets.data is None or sets.labels is None:
        return []
    split = sets.data.splits["train"]
    rows = []
    for placed, example in list(zip(split.rows, split.examples, strict=True))[:count]:
        place = Place(placed.file.name, placed.number, placed.file.problems.unit)
        pieces = _labelled(example, sets.labels, codec)
        label = None if sets.labels.problem == "tags" else _label(example, sets.labels)
        rows.append({**_row(place, pieces, len(example)), "label": label})
    return rows


def _row(place: Place, pieces: Sequence[tuple[str, bool | str]], length: int) -> dict[str, Any]:
    shown = [list(piece) for piece in pieces[:MOST_TOKENS]]
    return {
        "place": place.described(),
        "tokens": shown,
        "length": length,
        "left_out": len(pieces) - len(shown),
    }


def _pieces(example: Example, codec: ChatCodec) -> Iterator[tuple[str, bool]]:
    """The tokens' texts. A character of several tokens stands with the last of them."""
    pending = b""
    for at, (token, target) in enumerate(zip(example.ids, example.targets, strict=True)):
        pending += codec.token_bytes(token)
        text = pending.decode(errors="replace")
        last = at + 1 == len(example)
        if text.endswith(_UNFINISHED) and len(pending) < 4 and not last:
            continue
        yield text, target
        pending = b""


def _labelled(example: SequenceExample, labels: Labels, codec: SequenceCodec) -> list[tuple[str, bool | str]]:
    spelt: Callable[[int], str | None] = codec.tokenizer.id_to_token
    marks: dict[int, str] = {}
    if labels.problem == "tags" and isinstance(example.target, tuple):
        marks = {at: labels.names[tag] for at, tag in zip(example.words, example.target, strict=True)}
    return [(spelt(token) or "?", marks.get(at, False)) for at, token in enumerate(example.ids)]


def _label(example: SequenceExample, labels: Labels) -> str:
    target = example.target
    if isinstance(target, tuple):
        return ", ".join(labels.names[index] for index in target)
    return f"{target:g}" if labels.problem == "regression" else labels.names[int(target)]
