"""A decoder's requests and the tokens that answer them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from ptune.engine.decoder.answers.thinking import ThinkingBudget
from ptune.engine.job import Finish
from ptune.engine.sampling import Sampling, require
from ptune.errors import RequestError
from ptune.formats.bundle import BASE

if TYPE_CHECKING:
    from ptune.engine.decoder.answers.grammar import Grammar
    from ptune.engine.decoder.inputs.images import Picture

NO_TOKEN = -1  # id of a Token that only says that the sequence has ended
_DEFAULT = Sampling()


@dataclass(frozen=True, slots=True)
class Beams:
    """Beam search in place of sampling. Field names and meanings are those of transformers' `generate`.

    Raises: RequestError that names the field where a value is out of range.
    """

    num_beams: int  # sequences that are followed at once
    length_penalty: float = (
        1.0  # an answer's score is the sum of its log-probabilities / tokens ** length_penalty
    )
    early_stopping: bool | Literal["never"] = False  # see ptune.engine.decoder.answers.beams

    def __post_init__(self) -> None:
        require(
            self.num_beams >= 2, "num_beams", "must be 2 or more here: one beam is greedy", self.num_beams
        )
        require(
            -10 <= self.length_penalty <= 10, "length_penalty", "must be from -10 to 10", self.length_penalty
        )
        known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        require(known, "early_stopping", 'must be true, false or "never"', self.early_stopping)


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to be continued. Raises: RequestError that names the field where a value is out of range."""

    prompt: tuple[int, ...]  # at least one token
    adapter: str = BASE
    sampling: Sampling = _DEFAULT
    max_tokens: int = 256  # 0 = only score the prompt
    stop_ids: frozenset[int] = frozenset()  # ends the sequence; the token itself is emitted last
    logprobs: int | None = None  # None = none; n = the chosen token's and the n most likely
    prompt_logprobs: int | None = None  # the same of every prompt token but the first, and the n most likely
    grammar: Grammar | None = None  # what the answer may be
    beams: Beams | None = None  # the answer is the best that beam search finds, and comes whole at the end
    tenant: str = ""  # pays for the work: tenants share the engine fairly
    weight: float = 1.0  # the tenant's share beside others': 2 = twice as much
    deadline_s: float | None = None  # seconds after its submission at which a request is ended; None = never
    min_tokens: int = 0  # no stop token is chosen before so many others
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that the output never holds
    allowed_token_ids: frozenset[int] | None = None  # the only tokens to choose from; None = all
    thinking: ThinkingBudget | None = None  # how much may be thought before the answer; None = any amount
    pictures: tuple[Picture, ...] = ()  # whose rows are among the prompt's tokens

    def __post_init__(self) -> None:
        require(len(self.prompt) > 0, "prompt", "must have at least one token", list(self.prompt))
        require(self.max_tokens >= 0, "max_tokens", "must be 0 or more", self.max_tokens)
        require(self.min_tokens >= 0, "min_tokens", "must be 0 or more", self.min_tokens)
        rule = f"must be at most max_tokens, which is {self.max_tokens}"
        require(self.min_tokens <= self.max_tokens, "min_tokens", rule, self.min_tokens)
        require(all(self.bad_words), "bad_words", "must have at least one token each", self.bad_words)
        require(self.allowed_token_ids != frozenset(), "allowed_token_ids", "must not be empty", [])
        require(self.logprobs is None or self.logprobs >= 0, "logprobs", "must be 0 or more", self.logprobs)
        prompt = self.prompt_logprobs
        require(prompt is None or prompt >= 0, "prompt_logprobs", "must be 0 or more", prompt)
        require(0 < self.weight < math.inf, "weight", "must be above 0", self.weight)
        require(
            self.deadline_s is None or 0 < self.deadline_s < math.inf,
            "deadline_s",
            "must be above 0 seconds",
            self.deadline_s,
        )
        if self.grammar is not None:
            self._require_no_rules(
                "cannot be combined with a form (response_format, structured_outputs, forced tool calls)"
            )
        if self.beams is not None:
            self._require_beams_alone()
        if self.pictures:
            self._require_no_more_than_text()

    def require_servable(self, vocab: int, context: int, slots: int) -> None:
        """Raises: RequestError where an engine with this vocabulary, this context and so many slots cannot serve this.

        context: the longest sequence, in tokens; with beams, that each of them may be.
        """
        if self.beams is not None:
            most = min(slots, vocab // max(2, 1 + len(self.stop_ids)))
            rule = f"must be at most {most} here, as each beam takes a slot of the engine, which has {slots}"
            require(self.beams.num_beams <= most, "num_beams", rule, self.beams.num_beams)
        require_tokens(self.prompt, self.max_tokens, vocab, context, self.pictures)
        require_known("logit_bias", self.sampling.logit_bias, vocab)
        require_known("allowed_token_ids", self.allowed_token_ids or (), vocab)
        for word in self.bad_words:
            require_known("bad_words", word, vocab)
        self._require_some_token(vocab)
        for name, top in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if (top or 0) > vocab:
                raise RequestError(f"{name} must be at most {vocab} (is {top})", param=name)

    def _require_some_token(self, vocab: int) -> None:
        """Raises: RequestError where the rules could leave no token to choose at some point of an answer."""
        forbidden = {word[-1] for word in self.bad_words} | (
            self.stop_ids if self.min_tokens else frozenset()
        )
        allowed = self.allowed_token_ids
        if len(forbidden) < vocab if allowed is None else allowed - forbidden:
            return
        named = "bad_words" if allowed is None else "allowed_token_ids"
        message = f"{named}: with bad_words and min_tokens no token is left to choose; allow more tokens"
        raise RequestError(message, param=named, code="invalid_value")

    def _require_beams_alone(self) -> None:
        """Raises: RequestError for options that cannot be combined with beam search."""
        sampling, plain = self.sampling, Sampling(temperature=0, seed=self.sampling.seed)
        for field_ in fields(Sampling):
            value, wanted = getattr(sampling, field_.name), getattr(plain, field_.name)
            rule = f"must be {wanted!r} with num_beams: beam search chooses by the model's own probabilities"
            require(value == wanted, field_.name, rule, value)
        for name, asked in (
            ("logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
            ("thinking_token_budget", None if self.thinking is None else self.thinking.tokens),
        ):
            require(asked is None, name, "is not available with num_beams", asked)
        if self.grammar is not None:
            message = "num_beams: beam search follows no form (response_format, structured_outputs, forced tool calls)"
            raise RequestError(message, param="num_beams", code="invalid_value")
        self._require_no_rules("cannot be combined with num_beams")
        require(self.max_tokens > 0, "max_tokens", "must be 1 or more with num_beams", self.max_tokens)

    def _require_no_more_than_text(self) -> None:
        """Raises: RequestError for what is told of texts alone."""
        rule = "is not available for prompts with images"
        require(self.beams is None, "num_beams", rule, "more than 1")
        require(self.prompt_logprobs is None, "prompt_logprobs", rule, self.prompt_logprobs)

    def _require_no_rules(self, rule: str) -> None:
        """Raises: RequestError where the request forbids tokens."""
        require(self.min_tokens == 0, "min_tokens", rule, self.min_tokens)
        require(not self.bad_words, "bad_words", rule, f"{len(self.bad_words)} sequences")
        asked = self.allowed_token_ids
        require(asked is None, "allowed_token_ids", rule, f"{len(asked or ())} tokens")


def require_known(param: str, tokens: Iterable[int], vocab: int) -> None:
    """Raises: RequestError that names a parameter whose tokens are not all in the vocabulary."""
    if wrong := [token for token in tokens if not 0 <= token < vocab]:
        raise RequestError(
            f"{param}: no token {wrong[0]}; the vocabulary has {vocab}", param=param, code="invalid_value"
        )


def require_tokens(
    prompt: Sequence[int], max_tokens: int, vocab: int, context: int, pictures: Sequence[Picture] = ()
) -> None:
    """Raises: RequestError where a prompt has tokens that do not exist, or is too long with what should follow.

    pictures: whose rows may be among them.
    """
    wrong = [token for token in {*prompt} if not 0 <= token < vocab]
    if not prompt or any(not any(token in one.tokens for one in pictures) for token in wrong):
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
    With `prompt_logprobs` the prompt's own tokens come first, marked `prompt`, with their ranks; the first of them has neither.
    A sequence that ends without another token (cancelled, error, nothing asked for) ends with id NO_TOKEN.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None  # set on the last token only
    error: str | None = None
    prompt: bool = False
    rank: int | None = None  # of a prompt token: how many tokens are as likely as it is, itself included
    refused: bool = False  # the error is the request's own fault
    expired: bool = False  # the error is that its deadline passed before its first token
    score: float | None = None  # of an answer of beam search, on its last token

    @property
    def refusal(self) -> RequestError | None:
        """The error as the client should read it; None where it is the engine's own."""
        if self.expired:
            return RequestError(self.error or "", code="deadline_exceeded", status=503)
        return RequestError(self.error or "", code="invalid_grammar") if self.refused else None
