"""Golden vectors: what the exporting machine computed, replayed at every start before anybody is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ptune.engine.decoder.request import NO_TOKEN, Request, Sampling
from ptune.engine.sampling import log_softmax, most_likely
from ptune.errors import ParityError
from ptune.formats.bundle import BASE

if TYPE_CHECKING:
    from ptune.engine.decoder.engine import Engine

TOLERANCE = 1e-3  # of a log-probability
ROUNDED = (
    0.05  # of profiles with rounded activations: where one falls otherwise, later layers make more of it
)
TOP = 5  # tokens kept of each position
PROMPT_POSITIONS = 4  # of the prompt's end
GREEDY_TOKENS = 8


class Case(BaseModel):
    """One prompt under one adapter. Positions count from the start of ids + greedy."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    ids: list[int]
    adapter: str
    positions: list[int]  # the last are those that chose `greedy`
    top: list[list[int]]  # the most likely tokens of each position, best first
    logprobs: list[list[float]]  # theirs
    greedy: list[int]  # the greedy continuation of ids


class Golden(BaseModel):
    """golden.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    tolerance: float = TOLERANCE
    cases: list[Case]


def record(
    engine: Engine, prompts: Sequence[Sequence[int]], adapters: Sequence[str], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Every prompt under every adapter (`base` among them where it is to be covered), as golden.json holds it."""
    pairs = [(list(prompt), adapter) for adapter in adapters for prompt in prompts]
    ids, names = [prompt for prompt, _ in pairs], [adapter for _, adapter in pairs]
    greedy = _continue(engine, ids, names, GREEDY_TOKENS)
    logits = engine.logits([prompt + more for prompt, more in zip(ids, greedy, strict=True)], names)
    cases = []
    for prompt, adapter, more, rows in zip(ids, names, greedy, logits, strict=True):
        positions = list(range(max(0, len(prompt) - PROMPT_POSITIONS), len(prompt) + len(more) - 1))
        best = [most_likely(log_softmax(rows[position]), TOP) for position in positions]
        cases.append(
            Case(
                ids=prompt,
                adapter=adapter,
                positions=positions,
                top=[[token for token, _ in tokens] for tokens in best],
                logprobs=[[round(logprob, 6) for _, logprob in tokens] for tokens in best],
                greedy=more,
            )
        )
    return Golden(tolerance=tolerance, cases=cases).model_dump()


def replay(engine: Engine, golden: dict[str, Any]) -> float:
    """Computes the cases again and returns the worst |Δ log-probability|. Adapters that are gone are left out.

    Raises: ParityError that names the case, where a log-probability is off by more than the tolerance, or where a
    greedy continuation differs although its two best tokens are further apart than twice the worst difference.
    """
    known = Golden.model_validate(golden)
    cases = [case for case in known.cases if case.adapter in (BASE, *engine.adapters)]
    ids, names = [case.ids for case in cases], [case.adapter for case in cases]
    logits = engine.logits([case.ids + case.greedy for case in cases], names)
    off = [_difference(case, rows) for case, rows in zip(cases, logits, strict=True)]
    for case, difference in zip(cases, off, strict=True):
        if not difference <= known.tolerance:  # NaN is not
            raise _otherwise(
                case, f"a log-probability is off by {difference:.2g}, more than {known.tolerance:g}"
            )
    worst = max(off, default=0.0)
    for case, found in zip(cases, _continue(engine, ids, names, GREEDY_TOKENS), strict=True):
        _compare_greedy(case, found, worst)
    return worst


def _difference(case: Case, logits: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    logprobs = log_softmax(logits[case.positions])
    found = np.take_along_axis(logprobs, np.array(case.top), axis=-1)
    return float(np.abs(found - np.array(case.logprobs)).max())


def _compare_greedy(case: Case, found: list[int], worst: float) -> None:
    """From the first token that differs on, the continuations are of different texts and not compared."""
    for index, (expected, token) in enumerate(zip(case.greedy, found, strict=False)):
        if token != expected:
            best, second, *_ = case.logprobs[case.positions.index(len(case.ids) + index - 1)]
            if best - second > 2 * worst:
                raise _otherwise(case, f"its greedy token {index + 1} is {token}, not {expected}")
            return


def _continue(
    engine: Engine, ids: Sequence[list[int]], adapters: Sequence[str], tokens: int
) -> list[list[int]]:
    """Greedy continuations, all in one batch."""
    greedy = Sampling(temperature=0)
    requests = [
        Request(tuple(prompt), adapter, greedy, max_tokens=tokens)
        for prompt, adapter in zip(ids, adapters, strict=True)
    ]
    return [
        [token.id for token in answer if token.id != NO_TOKEN] for answer in engine.generate_all(requests)
    ]


def _otherwise(case: Case, how: str) -> ParityError:
    return ParityError(
        f"this machine computes otherwise than the one that exported the bundle: under {case.adapter!r}, after the "
        f"prompt {case.ids[:8]}{'…' if len(case.ids) > 8 else ''} {how}. Export the bundle on a machine of this kind."
    )
