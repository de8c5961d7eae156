"""Options about single tokens, as vLLM names them: where an answer may end, and what it may not hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from ptune.engine.decoder.request import require_known
from ptune.errors import RequestError


class Codec(Protocol):
    """What is needed of a codec."""

    @property
    def eos_ids(self) -> frozenset[int]: ...
    def encode_text(self, text: str, *, special: bool = ...) -> list[int]: ...
    def mark(self, text: str) -> int | None: ...


class RequestTokens(TypedDict):
    """Fields of `ptune.engine.decoder.request.Request`."""

    stop_ids: frozenset[int]
    min_tokens: int
    bad_words: tuple[tuple[int, ...], ...]
    allowed_token_ids: frozenset[int] | None


@dataclass(frozen=True)
class TokenOptions:
    """The options as a user states them."""

    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    bad_words: Sequence[str] = ()
    allowed_token_ids: Collection[int] | None = None

    def for_engine(self, codec: Codec, vocab: int, *, formed: bool) -> RequestTokens:
        """The same as tokens. formed: whether a grammar decides what the answer may be.

        Raises: RequestError that names an option which cannot be obeyed.
        """
        require_known("stop_token_ids", self.stop_token_ids, vocab)
        if formed and self.ignore_eos:
            message = "ignore_eos: an answer in a form ends with its form; send one or the other"
            raise RequestError(message, param="ignore_eos", code="invalid_value")
        ends = frozenset() if self.ignore_eos else codec.eos_ids
        allowed = self.allowed_token_ids
        return RequestTokens(
            stop_ids=ends | frozenset(self.stop_token_ids),
            min_tokens=self.min_tokens,
            bad_words=tuple(tokens for word in self.bad_words for tokens in _spellings(codec, word)),
            allowed_token_ids=None if allowed is None else frozenset(allowed),
        )


def _spellings(codec: Codec, word: str) -> Iterator[tuple[int, ...]]:
    """The tokens of a bad word where it begins a text and, if they differ only in the first, behind a space.

    These are the two that vLLM forbids. A control token is forbidden as such. Raises: RequestError where there are none.
    """
    mark = codec.mark(word)
    if mark is not None:
        yield (mark,)
        return
    plain = tuple(codec.encode_text(word.lstrip(), special=False))
    if not plain:
        raise RequestError(f"bad_words: {word!r} has no token", param="bad_words", code="invalid_value")
    yield plain
    spaced = tuple(codec.encode_text(f" {word.lstrip()}", special=False))
    if len(spaced) == len(plain) and spaced[0] != plain[0]:
        yield spaced
