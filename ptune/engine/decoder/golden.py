"""Golden vectors of a decoder: log-probabilities of prompts under each adapter, and their greedy continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from ptune.engine import golden
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.onnx_graph import Array
from ptune.engine.sampling import Sampling, log_softmax, most_likely
from ptune.errors import ParityError

TOLERANCE = golden.TOLERANCE
ROUNDED = 0.05  # tolerance of profiles with rounded activations: where one differs, later layers amplify it
TOP = 5  # tokens recorded at each position
PROMPT_POSITIONS = 4  # positions recorded at the prompt's end
GREEDY_TOKENS = 8
NEAR_KL = 1e-3  # of answers with own operators from the golden ones, mean over positions: a tenth of a profile's gate

# Of a device's answers from the golden ones. Attention in half precision is off by 1e-6. Where the golden ones come of rounded
# activations, those that a device does not round are further from them, within the profile's gate.
DEVICE_KL, DEVICE_ROUNDED_KL = 1e-4, 5e-3


class Computing(Protocol):
    """The part of a decoder's engine that matters here."""

    @property
    def adapters(self) -> list[str]: ...

    def logits(
        self,
        ids: Sequence[Sequence[int]],
        adapters: Sequence[str],
        *,
        positions: Sequence[Sequence[int]] | None,
    ) -> list[Array]: ...

    def generate_all(self, requests: Sequence[Request]) -> list[list[Token]]: ...


class Case(golden.Case):
    """The most likely tokens of a prompt's last positions and of its greedy continuation.

    Positions count from the start of input + greedy.
    """

    quantity: ClassVar[str] = "a log-probability"
    input: list[int] = Field(validation_alias="ids", serialization_alias="ids")
    positions: list[int]  # the last of them chose the tokens of `greedy`
    top: list[list[int]]  # the most likely tokens of each position, best first
    values: list[list[float]] = Field(validation_alias="logprobs", serialization_alias="logprobs")  # of `top`
    greedy: list[int]  # the greedy continuation of the input

    @property
    def described(self) -> str:
        return f"after the prompt {self.input[:8]}{'…' if len(self.input) > 8 else ''}"


def record(
    engine: Computing, prompts: Sequence[Sequence[int]], adapters: Sequence[str], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Every prompt under every adapter (`base` among them where it is to be covered), as golden.json holds them."""
    chosen = [(list(prompt), adapter) for adapter in adapters for prompt in prompts]
    greedy = _continue(engine, chosen)
    sequences = [prompt + more for (prompt, _), more in zip(chosen, greedy, strict=True)]
    positions = [
        range(max(0, len(prompt) - PROMPT_POSITIONS), len(tokens) - 1)
        for (prompt, _), tokens in zip(chosen, sequences, strict=True)
    ]
    logits = engine.logits(sequences, [adapter for _, adapter in chosen], positions=positions)
    cases = [
        _case(prompt, adapter, more, where, rows)
        for (prompt, adapter), more, where, rows in zip(chosen, greedy, positions, logits, strict=True)
    ]
    return golden.Golden[Case](tolerance=tolerance, cases=cases).dump()


def _case(prompt: list[int], adapter: str, greedy: list[int], positions: range, logits: Array) -> Case:
    """logits: [positions, vocab]."""
    best = [most_likely(log_softmax(row), TOP) for row in logits]
    return Case(
        adapter=adapter,
        input=prompt,
        positions=list(positions),
        top=[[token for token, _ in tokens] for tokens in best],
        values=[[round(logprob, golden.DIGITS) for _, logprob in tokens] for tokens in best],
        greedy=greedy,
    )


class Replay:
    """The cases of golden.json, whose log-probabilities an engine computed again, once. Cases of removed adapters are left out."""

    def __init__(self, engine: Computing, content: dict[str, Any]) -> None:
        recorded = golden.Golden[Case].model_validate(content)
        self._engine, self._tolerance = engine, recorded.tolerance
        self._cases = golden.served(recorded, engine.adapters)
        self._logprobs = _logprobs(engine, self._cases)

    def require_same(self) -> float:
        """Returns the worst difference.

        Raises: ParityError that names the case, where a log-probability is off by more than the tolerance, or where a
        greedy continuation differs although its two best tokens are further apart than twice the worst difference.
        """
        worst = golden.replay(self._cases, lambda _: self._logprobs, self._tolerance)
        chosen = [(case.input, case.adapter) for case in self._cases]
        for case, tokens in zip(self._cases, _continue(self._engine, chosen), strict=True):
            _compare_greedy(case, tokens, worst)
        return worst

    def require_near_device(self) -> float:
        """The same of a device's answers, to which limits of their own apply."""
        return self._within(DEVICE_ROUNDED_KL if self._tolerance > TOLERANCE else DEVICE_KL)

    def require_near(self) -> float:
        """Returns the mean KL of the engine's distributions from the golden ones. Raises: ParityError where it is over the limit."""
        return self._within(NEAR_KL)

    def _within(self, limit: float) -> float:
        found = [
            _divergence(np.array(case.values), values)
            for case, values in zip(self._cases, self._logprobs, strict=True)
        ]
        kl = float(np.concatenate(found).mean()) if found else 0.0
        if not kl <= limit:  # also for NaN
            raise ParityError(f"its answers are off by a KL of {kl:.2g}, more than {limit:g}")
        return kl


def replay(engine: Computing, content: dict[str, Any]) -> float:
    """Computes the cases of golden.json again; returns the worst difference. Raises: ParityError, as `Replay.require_same`."""
    return Replay(engine, content).require_same()


def _divergence(expected: Array, found: Array) -> Array:
    """KL [positions] between distributions over the recorded tokens and all others together, from log-probabilities."""
    p, q = np.exp(expected), np.exp(found)
    rest, other = (np.maximum(1 - one.sum(-1), np.finfo(np.float32).eps) for one in (p, q))
    return np.asarray((p * (expected - found)).sum(-1) + rest * np.log(rest / other))


def _logprobs(engine: Computing, cases: Sequence[Case]) -> list[Array]:
    """Log-probabilities [positions, top] of each case."""
    logits = engine.logits(
        [case.input + case.greedy for case in cases],
        [case.adapter for case in cases],
        positions=[case.positions for case in cases],
    )
    return [
        np.take_along_axis(log_softmax(rows), np.array(case.top), axis=-1)
        for case, rows in zip(cases, logits, strict=True)
    ]


def _compare_greedy(case: Case, tokens: list[int], worst: float) -> None:
    """Raises: ParityError. After the first token that differs, the texts are different ones and not compared."""
    for index, (expected, token) in enumerate(zip(case.greedy, tokens, strict=False)):
        if token != expected:
            best, second, *_ = case.values[case.positions.index(len(case.input) + index - 1)]
            if best - second > 2 * worst:
                raise golden.otherwise(case, f"its greedy token {index + 1} is {token}, not {expected}")
            return


def _continue(engine: Computing, chosen: Sequence[tuple[list[int], str]]) -> list[list[int]]:
    """Greedy continuations of (prompt, adapter), all in one batch."""
    requests = [
        Request(tuple(prompt), adapter, Sampling(temperature=0), max_tokens=GREEDY_TOKENS)
        for prompt, adapter in chosen
    ]
    return [
        [token.id for token in answer if token.id != NO_TOKEN] for answer in engine.generate_all(requests)
    ]
