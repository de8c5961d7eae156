"""Log-probabilities in the shapes that servers send them: OpenAI's two, and what vLLM and llama-server add to these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptune.verify.endpoint.client import log_prob

BY_ID = "token_id:"  # vLLM's spelling where it is asked to name tokens by their ids


@dataclass(frozen=True)
class Named:
    """A token as a server names it: by its text, its id or both."""

    text: str | None = None
    id: int | None = None

    @classmethod
    def of(cls, text: Any, token: Any = None) -> Named:
        """`text` may be vLLM's "token_id:123"."""
        if isinstance(text, str) and text.startswith(BY_ID) and text[len(BY_ID) :].isdecimal():
            return cls(None, int(text[len(BY_ID) :][:9]))
        known = token if isinstance(token, int) and not isinstance(token, bool) else None
        return cls(text if isinstance(text, str) else None, known)


@dataclass(frozen=True)
class Said:
    """What a server says of one position: the token there, its log-probability and those of the likeliest ones."""

    token: Named
    log_prob: float | None
    top: tuple[tuple[Named, float], ...] = ()


@dataclass(frozen=True)
class Names:
    """Which token a name stands for, among the few that are looked for."""

    texts: Mapping[int, str]

    def among(self, wanted: Iterable[int]) -> dict[str, int]:
        """Text -> token. A text that several tokens have, or that is only a part of a character, names none."""
        counts: dict[str, list[int]] = {}
        for token in wanted:
            counts.setdefault(self.texts.get(token, ""), []).append(token)
        return {
            text: ids[0] for text, ids in counts.items() if len(ids) == 1 and text and "\ufffd" not in text
        }

    def found(self, said: Said, wanted: Iterable[int]) -> dict[int, float]:
        """The log-probabilities of those `wanted` tokens that the server tells."""
        wanted = list(wanted)
        by_text = self.among(wanted)
        values: dict[int, float] = {}
        own = [(said.token, said.log_prob)] if said.log_prob is not None else []
        for named, value in [*said.top, *own]:
            token = named.id if named.id is not None else by_text.get(named.text or "")
            if token in wanted and value is not None:
                values[token] = value
        return values

    def is_token(self, named: Named, token: int) -> bool | None:
        """Whether a name is that of `token`; None where it cannot be told."""
        if named.id is not None:
            return named.id == token
        return None if named.text is None else named.text == self.texts.get(token)


@dataclass(frozen=True)
class Reply:
    """An answer of either endpoint, as far as it concerns us."""

    said: tuple[Said, ...]
    prompt_tokens: int | None  # None where it is not told
    prompt_ids: tuple[int, ...] | None = None


def reply_of(answer: Mapping[str, Any]) -> Reply:
    """Reads an answer of /v1/completions or /v1/chat/completions; what it lacks or has in another shape is left out."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    ids = next((v for v in (answer.get("prompt_token_ids"), choice.get("prompt_token_ids")) if v), None)
    logprobs = choice.get("logprobs")
    said = _said(logprobs, choice.get("token_ids")) if isinstance(logprobs, dict) else ()
    return Reply(said, count if isinstance(count, int) and count > 0 else None, _ids(ids))


def _ids(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(type(token) is int for token in value) else None


def _said(logprobs: Mapping[str, Any], generated: Any) -> tuple[Said, ...]:
    content = logprobs.get("content")
    if isinstance(content, list):  # of chat, and of llama-server's completions
        entries = [_entry(one) for one in content if isinstance(one, dict)]
        told = _ids(generated) or ()
        if len(told) < len(entries) or any(one.token.id is not None for one in entries):
            return tuple(entries)
        return tuple(
            replace(one, token=replace(one.token, id=token))
            for one, token in zip(entries, told, strict=False)
        )
    texts, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(texts, list) or not isinstance(values, list) or len(texts) != len(values):
        return ()
    tops = tops if isinstance(tops, list) and len(tops) == len(texts) else [None] * len(texts)
    known = _ids(generated) or ()
    ids = [None] * (len(texts) - len(known)) + [*known] if len(known) <= len(texts) else [None] * len(texts)
    return tuple(
        Said(Named.of(text, token), log_prob(value), _top(top))
        for text, token, value, top in zip(texts, ids, values, tops, strict=True)
    )


def _entry(one: Mapping[str, Any]) -> Said:
    listed = one.get("top_logprobs")
    top = [(Named.of(other.get("token"), other.get("id")), log_prob(other.get("logprob")))
           for other in listed if isinstance(other, dict)] if isinstance(listed, list) else []  # fmt: skip
    known = tuple((named, value) for named, value in top if value is not None)
    return Said(Named.of(one.get("token"), one.get("id")), log_prob(one.get("logprob")), known)


def _top(top: Any) -> tuple[tuple[Named, float], ...]:
    """The likeliest tokens by text. Special tokens may be spelled as nothing: such a name is that of no token."""
    if not isinstance(top, dict):
        return ()
    pairs = [(Named.of(text), log_prob(value)) for text, value in top.items()]
    return tuple((named, value) for named, value in pairs if value is not None)
