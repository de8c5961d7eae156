"""Golden vectors of an encoder-decoder.

golden/pairs.json       held-out sources and targets in tokens, also for `ptune verify`
golden/golden.json      log-probabilities of the first of them under each adapter, decoded token by token
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from ptune.engine import golden
from ptune.engine.onnx_graph import Array
from ptune.engine.sampling import log_softmax
from ptune.engine.seq2seq.request import Seq2SeqOutput, Seq2SeqRequest
from ptune.errors import FormatError
from ptune.formats.bundle import Bundle, parse
from ptune.formats.whole_write import read_json, write_json

PAIRS = "golden/pairs.json"
CASES, TOKENS = 4, 8  # pairs that are replayed, and tokens of each


class Computing(Protocol):
    """The part of an encoder-decoder's engine that matters here."""

    @property
    def adapters(self) -> list[str]: ...

    def generate(self, requests: Sequence[Seq2SeqRequest]) -> list[Seq2SeqOutput]: ...


class Pair(NamedTuple):
    """A source and a target in tokens."""

    source: tuple[int, ...]
    target: tuple[int, ...]


class Case(golden.Case):
    """Log-probabilities of the first tokens of a pair's target; the pair by its index."""

    quantity: ClassVar[str] = "a log-probability"
    input: int = Field(validation_alias="pair", serialization_alias="pair")
    values: list[float] = Field(validation_alias="logprobs", serialization_alias="logprobs")

    @property
    def described(self) -> str:
        return f"of pair {self.input}"


def save_pairs(pairs: Sequence[Pair], bundle: Path) -> None:
    """Writes held-out pairs into a bundle."""
    write_json(bundle / PAIRS, {"format": 1, "pairs": [pair._asdict() for pair in pairs]})


def load_pairs(bundle: Path) -> list[Pair]:
    """Reads a bundle's held-out pairs. Raises: FormatError."""
    path = bundle / PAIRS
    try:
        return [Pair(tuple(pair["source"]), tuple(pair["target"])) for pair in read_json(path)["pairs"]]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from None


def record(engine: Computing, pairs: Sequence[Pair], adapters: Sequence[str]) -> dict[str, Any]:
    """The first pairs under every adapter, as golden.json holds them. All are in flight at once, adapters mixed."""
    chosen = golden.pairs(adapters, len(pairs), CASES)
    cases = [
        Case(adapter=adapter, input=index, values=golden.rounded(logprobs))
        for (index, adapter), logprobs in zip(chosen, _logprobs(engine, pairs, chosen), strict=True)
    ]
    return golden.Golden[Case](cases=cases).dump()


def replay(engine: Computing, bundle: Bundle) -> float:
    """Computes the cases again and returns the worst difference. Cases of removed adapters are left out.

    Raises: ParityError that names the case whose difference is above the tolerance; FormatError.
    """
    path = bundle.golden_path
    recorded = parse(golden.Golden[Case], read_json(path), path)
    pairs, cases = load_pairs(bundle.folder), golden.served(recorded, engine.adapters)
    golden.require_inputs(cases, len(pairs), path, PAIRS)
    return golden.replay(
        cases,
        lambda cases: _logprobs(engine, pairs, [(case.input, case.adapter) for case in cases]),
        recorded.tolerance,
    )


def _logprobs(engine: Computing, pairs: Sequence[Pair], chosen: Sequence[tuple[int, str]]) -> list[Array]:
    outputs = engine.generate(
        [
            Seq2SeqRequest(pairs[index].source, adapter, forced_ids=pairs[index].target[:TOKENS])
            for index, adapter in chosen
        ]
    )
    logprobs = []
    for output in outputs:
        assert output.logits is not None
        logprobs.append(log_softmax(output.logits)[np.arange(len(output.ids)), list(output.ids)])
    return logprobs
