"""Golden vectors of an encoder-decoder: what the exporting machine computed, replayed at every start before anybody is answered.

golden/pairs.json       held-out sources and targets in tokens; `ptune verify` goes by them, too
golden/golden.json      under each adapter the log-probabilities of the first of them, token by token through the cache
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from ptune.engine.sampling import log_softmax
from ptune.engine.seq2seq.request import Sentence
from ptune.errors import FormatError, ParityError
from ptune.formats.bundle import BASE, Bundle, parse
from ptune.formats.whole_write import read_json, write_json

if TYPE_CHECKING:
    from ptune.engine.seq2seq.engine import Seq2SeqEngine

PAIRS = "golden/pairs.json"
TOLERANCE = 1e-3  # of a log-probability
CASES, TOKENS = 4, 8  # pairs that are replayed, and tokens of each


class Pair(NamedTuple):
    """A source and a target in tokens."""

    source: tuple[int, ...]
    target: tuple[int, ...]


class Case(BaseModel):
    """One pair under one adapter."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    adapter: str
    pair: int  # index
    logprobs: list[float]  # of the target's first tokens


class Seq2SeqGolden(BaseModel):
    """golden.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    tolerance: float = TOLERANCE
    cases: list[Case]


def save_pairs(pairs: Sequence[Pair], bundle: Path) -> None:
    """Writes held-out pairs into a bundle."""
    write_json(bundle / PAIRS, {"format": 1, "pairs": [one._asdict() for one in pairs]})


def load_pairs(bundle: Path) -> list[Pair]:
    """Reads a bundle's held-out pairs. Raises: FormatError."""
    path = bundle / PAIRS
    try:
        return [Pair(tuple(one["source"]), tuple(one["target"])) for one in read_json(path)["pairs"]]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from None


def record(engine: Seq2SeqEngine, pairs: Sequence[Pair], adapters: Sequence[str]) -> dict[str, Any]:
    """The first pairs under every name, as golden.json holds it. All are in flight at once, adapters mixed."""
    asked = [(index, name) for name in adapters for index in range(min(CASES, len(pairs)))]
    found = _logprobs(engine, pairs, asked)
    cases = [
        Case(adapter=name, pair=index, logprobs=np.round(own, 6).tolist())
        for (index, name), own in zip(asked, found, strict=True)
    ]
    return Seq2SeqGolden(cases=cases).model_dump()


def replay(engine: Seq2SeqEngine, bundle: Bundle) -> float:
    """Computes the cases again and returns the worst difference. Adapters that are gone are left out.

    Raises: ParityError that names the case which is off by more than the tolerance.
    """
    path = bundle.golden_path
    known = parse(Seq2SeqGolden, read_json(path), path)
    pairs = load_pairs(bundle.folder)
    cases = [case for case in known.cases if case.adapter in (BASE, *engine.adapters)]
    if any(case.pair >= len(pairs) for case in cases):
        raise FormatError(f"{path} is damaged: it names a pair that {PAIRS} has not")
    found = _logprobs(engine, pairs, [(case.pair, case.adapter) for case in cases])
    worst = 0.0
    for case, here in zip(cases, found, strict=True):
        expected = np.array(case.logprobs)
        off = float(np.abs(here - expected).max()) if here.shape == expected.shape else np.inf
        if not off <= known.tolerance:  # NaN is not
            raise ParityError(
                "this machine computes otherwise than the one that exported the bundle: under "
                f"{case.adapter!r}, of pair {case.pair}, a log-probability is off by {off:.2g}, more than {known.tolerance:g}."
                " Export the bundle on a machine of this kind."
            )
        worst = max(worst, off)
    return worst


def _logprobs(engine: Seq2SeqEngine, pairs: Sequence[Pair], asked: Sequence[tuple[int, str]]) -> list[Any]:
    written = engine.write(
        [Sentence(pairs[index].source, name, given=pairs[index].target[:TOKENS]) for index, name in asked]
    )
    found = []
    for one in written:
        assert one.logits is not None
        found.append(log_softmax(one.logits)[np.arange(len(one.ids)), list(one.ids)])
    return found
