"""What goes into the engine and what comes out, in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ptune.errors import RequestError
from ptune.formats.bundle import BASE

if TYPE_CHECKING:
    from ptune.engine.decoder.grammar import Grammar

Finish = Literal["stop", "length", "cancelled", "error"]

NO_TOKEN = -1  # id of a Token that only says that the sequence has ended


def _require(holds: bool, param: str, rule: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{param} {rule} (is {value!r})", param=param, code="invalid_value")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Field names and meanings are those of the OpenAI and vLLM APIs.

    Order: logit_bias, repetition/frequency/presence penalties, then temperature, top_k, top_p, min_p.
    `temperature` 0 is greedy; its ties go to the lowest token id.

    Raises: RequestError that names the field where a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", "must be 0 or more", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1", self.top_p)
        _require(self.top_k >= 0, "top_k", "must be 0 (off) or more", self.top_k)
        _require(0 <= self.min_p <= 1, "min_p", "must be from 0 to 1", self.min_p)
        _require(
            0 < self.repetition_penalty < math.inf,
            "repetition_penalty",
            "must be above 0",
            self.repetition_penalty,
        )
        _require(
            math.isfinite(self.frequency_penalty),
            "frequency_penalty",
            "must be finite",
            self.frequency_penalty,
        )
        _require(
            math.isfinite(self.presence_penalty), "presence_penalty", "must be finite", self.presence_penalty
        )
        for token, bias in self.logit_bias.items():
            _require(math.isfinite(bias), "logit_bias", f"must be finite for token {token}", bias)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the token with the largest logit and bias is taken, whatever came before."""
        penalties = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
        return self.temperature == 0 and not penalties


@dataclass(frozen=True, slots=True)
class Beams:
    """Beam search in place of sampling. Field names and meanings are those of transformers' `generate`.

    Raises: RequestError that names the field where a value is out of range.
    """

    num_beams: int  # sequences that are followed at once
    length_penalty: float = (
        1.0  # an answer's score is the sum of its log-probabilities / tokens ** length_penalty
    )
    early_stopping: bool | Literal["never"] = False  # see ptune.engine.decoder.beams

    def __post_init__(self) -> None:
        _require(
            self.num_beams >= 2, "num_beams", "must be 2 or more here: one beam is greedy", self.num_beams
        )
        _require(
            -10 <= self.length_penalty <= 10, "length_penalty", "must be from -10 to 10", self.length_penalty
        )
        known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        _require(known, "early_stopping", 'must be true, false or "never"', self.early_stopping)


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to be continued. Raises: RequestError that names the field where a value is out of range."""

    prompt: tuple[int, ...]  # at least one token
    adapter: str = BASE
    sampling: Sampling = Sampling()
    max_tokens: int = 256  # 0 = only score the prompt
    stop_ids: frozenset[int] = frozenset()  # ends the sequence; the token itself is emitted last
    logprobs: int | None = None  # None = none; n = the chosen token's and the n most likely
    prompt_logprobs: bool = False  # also the log-probability of every prompt token but the first
    grammar: Grammar | None = None  # what the answer may be
    beams: Beams | None = None  # the answer is the best that beam search finds, and comes whole at the end
    tenant: str = ""  # on whose account the work is done: tenants share the engine fairly
    weight: float = 1.0  # the tenant's share beside others': 2 = twice as much
    deadline_s: float | None = None  # seconds after its submission at which a request is ended; None = never

    def __post_init__(self) -> None:
        _require(len(self.prompt) > 0, "prompt", "must have at least one token", list(self.prompt))
        _require(self.max_tokens >= 0, "max_tokens", "must be 0 or more", self.max_tokens)
        _require(self.logprobs is None or self.logprobs >= 0, "logprobs", "must be 0 or more", self.logprobs)
        _require(0 < self.weight < math.inf, "weight", "must be above 0", self.weight)
        _require(
            self.deadline_s is None or 0 < self.deadline_s < math.inf,
            "deadline_s",
            "must be above 0 seconds",
            self.deadline_s,
        )
        if self.beams is not None:
            self._require_beams_alone()

    def require_servable(self, vocab: int, context: int, rows: int) -> None:
        """Raises: RequestError where an engine with so many tokens, so long a context and so many rows cannot serve this."""
        require_tokens(self.prompt, self.max_tokens, vocab, context)
        if self.beams is not None:
            most = min(rows, vocab // max(2, 1 + len(self.stop_ids)))
            rule = f"must be at most {most} here, as each beam is a row of the engine, which has {rows}"
            _require(self.beams.num_beams <= most, "num_beams", rule, self.beams.num_beams)
        if wrong := [token for token in self.sampling.logit_bias if not 0 <= token < vocab]:
            raise RequestError(
                f"logit_bias: no token {wrong[0]}; the vocabulary has {vocab}", param="logit_bias"
            )
        if (self.logprobs or 0) > vocab:
            raise RequestError(f"logprobs must be at most {vocab} (is {self.logprobs})", param="logprobs")

    def _require_beams_alone(self) -> None:
        """Raises: RequestError for what beam search cannot be combined with."""
        sampling, plain = self.sampling, Sampling(temperature=0, seed=self.sampling.seed)
        for field_ in fields(Sampling):
            value, wanted = getattr(sampling, field_.name), getattr(plain, field_.name)
            rule = f"must be {wanted!r} with num_beams: beam search chooses by the model's own probabilities"
            _require(value == wanted, field_.name, rule, value)
        for name, asked in (
            ("logprobs", self.logprobs is not None),
            ("prompt_logprobs", self.prompt_logprobs),
        ):
            _require(not asked, name, "cannot be told with num_beams", getattr(self, name))
        if self.grammar is not None:
            message = "num_beams: beam search follows no form (response_format, structured_outputs, forced tool calls)"
            raise RequestError(message, param="num_beams", code="invalid_value")
        _require(self.max_tokens > 0, "max_tokens", "must be 1 or more with num_beams", self.max_tokens)


def require_tokens(prompt: Sequence[int], max_tokens: int, vocab: int, context: int) -> None:
    """Raises: RequestError where a prompt has tokens that do not exist, or is too long with what should follow."""
    if not prompt or min(prompt) < 0 or max(prompt) >= vocab:
        raise RequestError(f"a prompt is one or more tokens of 0 to {vocab - 1}", param="prompt")
    if len(prompt) + max_tokens > context:
        raise RequestError(
            f"{len(prompt)} prompt tokens and max_tokens {max_tokens} are {len(prompt) + max_tokens} together; "
            f"a sequence may have {context}",
            param="max_tokens" if len(prompt) <= context else "prompt",
            code="context_length_exceeded",
        )


@dataclass(frozen=True, slots=True)
class Token:
    """One token that the engine emitted.

    `logprob` and `top` are of the model's own distribution: before grammar, temperature, penalties and truncation.
    With `prompt_logprobs` the prompt's own tokens come first, marked `prompt`; the first of them has no logprob.
    A sequence that ends without another token (cancelled, error, nothing asked for) ends with id NO_TOKEN.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None  # set on the last token only
    error: str | None = None
    prompt: bool = False
    refused: bool = False  # the error is the request's own fault
    late: bool = False  # the error is that its deadline passed before its first token
    score: float | None = None  # of an answer of beam search, on its last token

    @property
    def refusal(self) -> RequestError | None:
        """The error as whoever sent the request should read it; None where it is the engine's own."""
        if self.late:
            return RequestError(self.error or "", code="deadline_exceeded", status=503)
        return RequestError(self.error or "", code="invalid_grammar") if self.refused else None
