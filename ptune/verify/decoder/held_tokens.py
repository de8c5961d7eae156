"""The held-out tokens on which a decoder's profiles are compared; stored in the bundle, so that it can be verified anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ptune.codecs.chat import ChatCodec
from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, write_json
from ptune.verify.limits import HELD_TOKENS

FILE = "golden/held.json"
PIECE = 128  # most tokens of a sequence: all their logits are in memory
LEAST = 8
SAMPLE = "devils_dictionary.test.jsonl"  # ships with ptune; the comparison measures rounding, not knowledge
COMMON = frozenset(
    ("the", "of", "and", "to", "is", "that", "it", "for", "with", "are", "this", "have", "not", "you", "from")
)  # about a quarter of the words of an English text
LEAST_COMMON, MOST_FOREIGN = 0.1, 0.1  # shares of the words and of the letters
LEAST_WORDS = 50  # to judge by


@dataclass(frozen=True)
class HeldTokens:
    """Sequences of tokens, those of the run's own data first."""

    sequences: tuple[tuple[int, ...], ...]
    own: int = 0  # tokens of the run's own data
    english: bool = True  # False: the run's own data plainly is not

    @property
    def origin(self) -> str:
        """Where the tokens are from, in words."""
        share = self.own / max(sum(map(len, self.sequences)), 1)
        if share == 1:
            return "all text is the run's own"
        told = f"{share:.0%} of the text is the run's own, the rest an English sample"
        return told if self.english or not self.own else f"{told}, though the run's own is not English"


OwnPart = tuple[Sequence[int], int]
"""A text, and the position from which on no text before it is the same."""


def own_parts(texts: Iterable[Sequence[int]]) -> Iterator[OwnPart]:
    """Each text, and where it parts from all that stand before it.

    What the texts of one chat template begin with is the same computation in each. Counted in each, a single token whose two
    likeliest successors are nearly even would move top-1 by a percent.
    """
    seen: set[tuple[int, ...]] = set()
    for ids in texts:
        begins = [tuple(ids[: end + 1]) for end in range(len(ids))]
        yield ids, next((at for at, begin in enumerate(begins) if begin not in seen), len(ids))
        seen.update(begins)


def is_english(text: str) -> bool:
    """False where letters or common words plainly say otherwise; a short text has the benefit of the doubt."""
    words, letters = text.lower().split(), [letter for letter in text if letter.isalpha()]
    if sum(not letter.isascii() for letter in letters) > MOST_FOREIGN * len(letters):
        return False
    return len(words) < LEAST_WORDS or sum(word in COMMON for word in words) >= LEAST_COMMON * len(words)


def of_examples(examples: Sequence[Sequence[int]], codec: ChatCodec) -> HeldTokens:
    """Pieces of the examples' tokens, topped up from the sample text until HELD_TOKENS are compared, if there are so many."""
    longest = min(PIECE, codec.context or PIECE)
    held: list[tuple[int, ...]] = []
    own = _fill(held, _pieces(examples, longest))
    english = is_english(" ".join(codec.decode(ids) for ids in held))
    _fill(held, _pieces(_sample(codec), longest))
    return HeldTokens(tuple(held), own, english)


def _fill(held: list[tuple[int, ...]], pieces: Iterator[tuple[int, ...]]) -> int:
    """Appends pieces until HELD_TOKENS are compared. Returns how many tokens the texts have."""
    there, held[:] = (*held,), []
    tokens = 0
    for piece, start in own_parts(itertools.chain(there, pieces)):
        if tokens >= HELD_TOKENS:
            break
        held.append(tuple(piece))
        tokens += len(piece) - start
    return sum(map(len, held))


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


def save(held: HeldTokens, bundle: Path) -> None:
    """Writes the tokens into a bundle."""
    sequences = [list(ids) for ids in held.sequences]
    write_json(bundle / FILE, {"format": 1, "own": held.own, "english": held.english, "sequences": sequences})


def load(bundle: Path) -> HeldTokens:
    """Reads a bundle's tokens. Raises: FormatError."""
    path = bundle / FILE
    try:
        content = read_json(path)
        sequences = tuple(tuple(int(token) for token in ids) for ids in content["sequences"])
        return HeldTokens(sequences, int(content["own"]), bool(content.get("english", True)))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from None
