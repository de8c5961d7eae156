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
NEAR_KL = 1e-3  # of answers with own attention from the golden ones, mean over positions: a tenth of a profile's gate


class Computing(Protocol):
    """The part of a decoder's engine that matters here."""

    @property
    def adapters(self) -> list[str]: ...

    def logits(self, ids: Sequence[Sequence[int]], adapters: Sequence[str]) -> list[Array]: ...

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
    logits = engine.logits(sequences, [adapter for _, adapter in chosen])
    cases = [
        _case(prompt, adapter, more, rows)
        for (prompt, adapter), more, rows in zip(chosen, greedy, logits, strict=True)
    ]
    return golden.Golden[Case](tolerance=tolerance, cases=cases).dump()


def _case(prompt: list[int], adapter: str, greedy: list[int], logits: Array) -> Case:
    positions = list(range(max(0, len(prompt) - PROMPT_POSITIONS), len(prompt) + len(greedy) - 1))
    best = [most_likely(log_softmax(logits[position]), TOP) for position in positions]
    return Case(
        adapter=adapter,
        input=prompt,
        positions=positions,
        top=[[token for token, _ in tokens] for tokens in best],
        values=[[round(logprob, golden.DIGITS) for _, logprob in tokens] for tokens in best],
        greedy=greedy,
    )


def replay(engine: Computing, content: dict[str, Any]) -> float:
    """Computes the cases of golden.json again; returns the worst difference. Cases of removed adapters are left out.

    Raises: ParityError that names the case, where a log-probability is off by more than the tolerance, or where a
    greedy continuation differs although its two best tokens are further apart than twice the worst difference.
    """
    recorded = golden.Golden[Case].model_validate(content)
    cases = golden.served(recorded, engine.adapters)
    worst = golden.replay(cases, lambda cases: _logprobs(engine, cases), recorded.tolerance)
    for case, tokens in zip(
        cases, _continue(engine, [(case.input, case.adapter) for case in cases]), strict=True
    ):
        _compare_greedy(case, tokens, worst)
    return worst


class OwnProductsError(ParityError):
    """Own products have other bits than onnxruntime's on this machine, and these are not the bundle's."""


class OwnAttentionError(ParityError):
    """Answers with own attention are further from the golden ones than rounding brings them."""


def require_near(engine: Computing, content: dict[str, Any]) -> None:
    """Raises: OwnAttentionError where the engine's distributions differ from golden.json's by more than NEAR_KL."""
    recorded = golden.Golden[Case].model_validate(content)
    cases = golden.served(recorded, engine.adapters)
    found = [
        _divergence(np.array(case.values), values)
        for case, values in zip(cases, _logprobs(engine, cases), strict=True)
    ]
    kl = float(np.concatenate([np.zeros(1), *found]).mean()) if found else 0.0
    if not kl <= NEAR_KL:  # also for NaN
        raise OwnAttentionError(
            f"answers with own attention are off by a KL of {kl:.2g}, more than {NEAR_KL:g}"
        )


def _divergence(expected: Array, found: Array) -> Array:
    """KL [positions] between distributions over the recorded tokens and all others together, from log-probabilities."""
    p, q = np.exp(expected), np.exp(found)
    rest, other = (np.maximum(1 - one.sum(-1), np.finfo(np.float32).eps) for one in (p, q))
    return np.asarray((p * (expected - found)).sum(-1) + rest * np.log(rest / other))


def _logprobs(engine: Computing, cases: Sequence[Case]) -> list[Array]:
    """Log-probabilities [positions, top] of each case."""
    logits = engine.logits([case.input + case.greedy for case in cases], [case.adapter for case in cases])
    return [
        np.take_along_axis(log_softmax(rows[case.positions]), np.array(case.top), axis=-1)
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
