"""Log-probabilities in OpenAI's two formats, that of chat and that of completions, and in vLLM's of prompts."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ptune.engine.decoder.request import Token

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec


def chat_logprobs(codec: ChatCodec, tokens: Iterable[Token]) -> dict[str, Any]:
    """One entry a token, with the most likely alternatives."""
    content = [
        {
            **_entry(codec, token.id, token.logprob),
            "top_logprobs": [_entry(codec, other, logprob) for other, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(codec: ChatCodec, token: int, logprob: float | None) -> dict[str, Any]:
    return {"token": codec.token_text(token), "logprob": logprob, "bytes": list(codec.token_bytes(token))}


def prompt_logprobs(codec: ChatCodec, tokens: Sequence[Token], most: int) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: for each token of a prompt, by id, itself and the `most` most likely; null for the first."""

    def entry(token: int, logprob: float | None, rank: int | None) -> dict[str, Any]:
        return {"logprob": logprob, "rank": rank, "decoded_token": codec.token_text(token)}

    def entries(token: Token) -> dict[str, Any]:
        ranked = enumerate(token.top[:most], 1)
        own = {str(token.id): entry(token.id, token.logprob, token.rank)}
        return own | {str(other): entry(other, logprob, rank) for rank, (other, logprob) in ranked}

    return [None if token.logprob is None else entries(token) for token in tokens]


class TextOffsets:
    """Where the text of each token begins, in characters. A token that begins within one begins where that does."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = 0  # characters so far

    def of(self, token: bytes) -> int:
        """The next token's."""
        begins = self._whole
        self._whole += len(self._decoder.decode(token))
        return begins


def completion_logprobs(
    codec: ChatCodec, tokens: Sequence[Token], most: int, offsets: TextOffsets
) -> dict[str, Any]:
    """Parallel lists. As at OpenAI, the log-probability of an echoed prompt's first token is null.

    most: alternatives of each token. offsets: those of the text so far.
    """
    return {
        "tokens": [codec.token_text(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(codec, token, most) for token in tokens],
        "text_offset": [offsets.of(codec.token_bytes(token.id)) for token in tokens],
    }


def _top(codec: ChatCodec, token: Token, most: int) -> dict[str, float] | None:
    """The most likely tokens and the chosen one, by text; of two tokens with the same text, the likelier."""
    if token.logprob is None:
        return None
    top = {codec.token_text(token.id): token.logprob}
    for other, logprob in token.top[:most]:
        text = codec.token_text(other)
        top[text] = max(logprob, top.get(text, logprob))
    return top
