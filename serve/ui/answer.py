"""An answer while it streams in: what the page shows of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptune.errors import PtuneError

from .thread import Answer, Call


class ServerError(PtuneError):
    """The server refused a request, or cannot be reached. The message is shown on the page."""


@dataclass(frozen=True)
class SamplingControls:
    """The page's controls, which become fields of the request."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    tools: str = ""  # JSON of a list, as OpenAI's
    alternatives: int | None = None  # for each token, how many likely ones are told beside it


@dataclass(frozen=True)
class ScoredToken:
    """A token of an answer, its log-probability, and the likeliest ones in its place."""

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class StreamedAnswer:
    """An answer so far."""

    text: str = ""
    reasoning: str = ""
    thought_s: float | None = None  # how long it thought, once it is said
    calls: tuple[Call, ...] = ()
    scored: tuple[ScoredToken, ...] = ()
    tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0  # since the request was sent
    finish: str | None = None
    error: str | None = None

    def kept(self, model: str, system: str, tools: str) -> Answer | None:
        """It as part of a conversation; None before it says anything."""
        if not (self.text or self.reasoning or self.calls):
            return None
        thought_s = self.seconds - (self.first_token_s or 0) if self.thought_s is None else self.thought_s
        return Answer(
            model=model,
            system=system,
            text=self.text,
            thought=self.reasoning,
            thought_s=thought_s if self.reasoning else 0.0,
            thinking=bool(self.reasoning) and self.thought_s is None,
            calls=self.calls,
            tools=tools,
        )

    @property
    def tokens_per_s(self) -> float | None:
        """Rate after the first token, as the time to the first is mostly the prompt's."""
        if self.first_token_s is None or self.tokens < 2 or self.seconds <= self.first_token_s:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_token_s)


def grown(answer: StreamedAnswer, event: Mapping[str, Any], seconds: float) -> StreamedAnswer:
    """Adds an event of the stream to the answer. Raises: ServerError if the event is an error."""
    if "error" in event:
        raise ServerError(f"The server gave up: {event['error']['message']}")
    if event.get("usage"):
        return replace(answer, tokens=event["usage"]["completion_tokens"])
    [choice] = event["choices"]
    delta = choice["delta"]
    text, thought = (delta.get(name) or "" for name in ("content", "reasoning_content"))
    calls = _with_calls(answer.calls, delta.get("tool_calls") or ())
    written = bool(text or thought or calls != answer.calls)
    first_token_s = answer.first_token_s
    if first_token_s is None and written:
        first_token_s = seconds
    thought_s, finish = answer.thought_s, choice["finish_reason"]
    if answer.reasoning and thought_s is None and (text or calls or finish) and first_token_s is not None:
        thought_s = seconds - first_token_s
    return StreamedAnswer(
        text=answer.text + text,
        reasoning=answer.reasoning + thought,
        thought_s=thought_s,
        calls=calls,
        scored=answer.scored + _scored(choice.get("logprobs")),
        tokens=answer.tokens + written,
        first_token_s=first_token_s,
        seconds=seconds,
        finish=finish,
    )


def _with_calls(calls: tuple[Call, ...], deltas: Any) -> tuple[Call, ...]:
    """Calls of functions with what a chunk adds: a new one, or more of its arguments."""
    known = list(calls)
    for delta in deltas:
        place, function = delta["index"], delta.get("function") or {}
        if place == len(known):
            known.append(Call(id=delta.get("id") or f"call{place}", name="", arguments=""))
        call = known[place]
        known[place] = Call(
            id=call.id,
            name=call.name + (function.get("name") or ""),
            arguments=call.arguments + (function.get("arguments") or ""),
        )
    return tuple(known)


def _scored(logprobs: Mapping[str, Any] | None) -> tuple[ScoredToken, ...]:
    return tuple(
        ScoredToken(
            one["token"],
            one["logprob"],
            tuple((other["token"], other["logprob"]) for other in one.get("top_logprobs") or ()),
        )
        for one in (logprobs or {}).get("content") or ()
    )
