"""Which tokens a request forbids: before `min_tokens`, outside `allowed_token_ids`, at the end of a bad word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.request import Request

Bools = npt.NDArray[np.bool_]


class TokenRules:
    """The rules of one request. What may come next depends on the request's own output alone."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._always: Bools | None = None

    @staticmethod
    def of(request: Request) -> TokenRules | None:
        """The rules of a request; None where it has none."""
        asked = request.min_tokens or request.bad_words or request.allowed_token_ids is not None
        return TokenRules(request) if asked else None

    def allowed(self, output: Sequence[int], vocab: int) -> Bools | None:
        """The tokens [vocab] that may follow `output`; None = all."""
        ended = self._last_of_bad_words(output)
        early = len(output) < self._request.min_tokens
        if not ended and not early:
            return self._allowed_always(vocab)
        base = self._allowed_always(vocab)
        allowed = np.ones(vocab, np.bool_) if base is None else base.copy()
        allowed[ended] = False
        if early:
            allowed[[token for token in self._request.stop_ids if token < vocab]] = False
        return allowed

    def _allowed_always(self, vocab: int) -> Bools | None:
        if self._request.allowed_token_ids is None:
            return None
        if self._always is None:
            self._always = np.zeros(vocab, np.bool_)
            self._always[list(self._request.allowed_token_ids)] = True
        return self._always

    def _last_of_bad_words(self, output: Sequence[int]) -> list[int]:
        """The tokens that would complete a bad word after `output`."""
        return [
            word[-1]
            for word in self._request.bad_words
            if len(word) == 1 or tuple(output[1 - len(word) :]) == word[:-1]
        ]
