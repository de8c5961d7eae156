"""Sequences that consume logits: one samples a request's next token, one keeps the logits."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ptune.codecs.vision import FIRST_ROW
from ptune.engine.decoder.answers.token_rules import TokenRules
from ptune.engine.decoder.drafts.ngram import NgramProposer
from ptune.engine.decoder.inputs.images import Picture
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.decoder.sequence import AwaitedSequence, Chunk, TokenSequence
from ptune.engine.job import Finish, deadline_passed, not_computed
from ptune.engine.sampling import choose, log_softmax, most_likely, require_numbers
from ptune.errors import RequestError

Logits = npt.NDArray[np.float32]
MASK_S = 0.002
"""So long a step waits for a row's mask; then the row sits out until it is there, and the others go on."""


class RequestSequence(TokenSequence):
    """A request on its way, and the receiver of its tokens."""

    def __init__(
        self, request: Request, deliver: Callable[[Token], None], deadline_s: float = math.inf
    ) -> None:
        """deadline_s: on the engine's clock."""
        super().__init__(
            list(request.prompt),
            all_logits=request.prompt_logprobs is not None,
            tenant=request.tenant,
            weight=request.weight,
            deadline_s=deadline_s,
            most_tokens=len(request.prompt) + request.max_tokens,
            pictures=request.pictures,
        )
        self._request = request
        self._deliver = deliver
        # Penalties count tokens of the vocabulary alone.
        self._words = request.prompt
        if request.pictures:
            self._words = tuple(token for token in request.prompt if token < FIRST_ROW)

    def end(self, finish: Finish, error: str | None = None) -> None:
        if not self.finished:
            self._emit(Token(NO_TOKEN, finish=finish, error=error))

    @property
    def said(self) -> int:
        """Number of its tokens behind the prompt."""
        return len(self.tokens) - self.virtual - len(self._request.prompt)

    def give_up(self) -> None:
        """Finishes an expired sequence with its output so far, as `max_tokens` would; one without output fails."""
        if self.cancelled or self.said:
            self.end("cancelled" if self.cancelled else "length")
        else:
            error = str(deadline_passed(self._request.deadline_s))
            self._emit(Token(NO_TOKEN, finish="error", error=error, expired=True))

    def _emit(self, token: Token) -> None:
        """Delivers a token. A receiver that fails gets no more of them; its request is cancelled, and no other is disturbed."""
        self.finished = token.finish is not None
        try:
            self._deliver(token)
        except Exception:
            logging.getLogger(__name__).exception("a request's receiver failed; the request is cancelled")
            self._deliver = _nowhere
            self.cancelled = True


class SampledSequence(RequestSequence):
    """Samples a token whenever its newest has been computed, and delivers it."""

    def __init__(
        self,
        request: Request,
        deliver: Callable[[Token], None],
        deadline_s: float = math.inf,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """deadline_s: on the engine's clock. wake: called, on any thread, when a sequence that sits out may go on."""
        super().__init__(request, deliver, deadline_s)
        self._wake = wake
        self._unchosen: Logits | None = None  # [1, vocab] of the next token, while its mask is computed
        seed = request.sampling.seed
        self._seed = secrets.randbits(64) if seed is None else seed
        self._walk = None if request.grammar is None else request.grammar.walk()
        self._rules = TokenRules.of(request)
        self._thinking = None if request.thinking is None else request.thinking.count()
        self._proposer = NgramProposer()

    def draft(self, most: int) -> tuple[int, ...]:
        """As `TokenSequence.draft`, from the sequence's own text."""
        most = self.most_drafted(most)
        return self._proposer.propose(self.tokens, most) if most else ()

    def most_drafted(self, most: int) -> int:
        """As `TokenSequence.most_drafted`. With a grammar there is none: the mask of a token is only known at its turn.

        With images there is none either: a draft model sees none, and an answer about them repeats little of its prompt.
        """
        left = self._request.max_tokens - self.said
        return 0 if self._walk is not None or self.pictures else max(0, min(most, left - 1))

    def take(self, chunk: Chunk, logits: Logits) -> None:
        """Emits the prompt's tokens with their logprobs if the request wants them, then the next token. logits: [wanted, vocab].

        Raises: PtuneError where the logits are not numbers.
        """
        require_numbers(logits)
        request, newest = self._request, chunk.newest
        if self.all_logits:
            self._emit_prompt(chunk.start - self.virtual, logits)
            self.all_logits = not newest  # sent once, also where the sequence is computed a second time
        if newest and request.max_tokens == 0:
            self.end("length")
        elif newest:
            wanted = logits[len(logits) - 1 - len(chunk.draft) :]
            if self._walk is None or self._walk.ready(MASK_S):
                self._choose(chunk, wanted)
            else:
                self._unchosen = wanted.copy()
                self._walk.when_ready(self._wake)

    @property
    def sits_out(self) -> bool:
        return self._unchosen is not None and not self.uncached

    def take_up(self) -> bool:
        if self._unchosen is None or self.uncached or self._walk is None or not self._walk.ready():
            return False
        try:
            self._choose(None, self._unchosen)
        except Exception as error:
            self.cached = 0
            self.fail(not_computed(error))
        return True

    def _choose(self, chunk: Chunk | None, logits: Logits) -> None:
        """Emits the next token, and those of a chunk's draft that it leads to. logits: [1 + draft, vocab]."""
        self._unchosen = None
        draft = () if chunk is None else chunk.draft
        try:
            accepted = self._emit_all(draft, logits)
            if chunk is not None and draft and not chunk.room:
                self._proposer.observe(len(self.tokens), len(draft), accepted)
        except RequestError as error:  # its grammar cannot be followed any further
            self._emit(Token(NO_TOKEN, finish="error", error=str(error), refused=True))

    def _emit_prompt(self, start: int, logits: Logits) -> None:
        """Emits prompt tokens: logits of position p give the probability of the prompt's token p + 1. start: in the prompt."""
        prompt = self._request.prompt
        if start == 0:
            self._emit(Token(prompt[0], prompt=True))
        for vocab_logits, token in zip(logits, prompt[start + 1 :], strict=False):
            logprobs = log_softmax(vocab_logits)
            logprob, top = float(logprobs[token]), most_likely(logprobs, self._request.prompt_logprobs or 0)
            self._emit(Token(token, logprob, top, prompt=True, rank=int((logprobs >= logprob).sum())))

    def _emit_all(self, draft: tuple[int, ...], logits: Logits) -> int:
        """Emits the next token, and those after it while each equals its draft token, whose keys are cached already.

        Returns how many draft tokens were accepted.
        """
        accepted = 0
        self._emit_next(logits[0])
        while (
            accepted < len(draft)
            and self.tokens[-1] == draft[accepted]
            and not (self.finished or self.cancelled)
        ):
            accepted += 1
            self.cached += 1
            self._emit_next(logits[accepted])
        return accepted

    def _emit_next(self, logits: Logits) -> None:
        request = self._request
        output = self.tokens[self.virtual + len(request.prompt) :]
        allowed = None if self._walk is None else self._walk.allowed()
        if self._rules is not None:
            allowed = self._rules.allowed(output, len(logits))  # a request with rules has no grammar
        token = None if self._thinking is None else self._thinking.forced
        if token is not None and self._walk is not None and allowed is not None and not allowed[token]:
            token = None  # the budget ended within a character, which the form wants whole first
        if token is None:
            token = choose(logits, request.sampling, self._words, output, self._seed, allowed)
        if self._thinking is not None:
            self._thinking.advance(token)
        self.tokens.append(token)
        finish: Finish | None = None
        if token in request.stop_ids:
            finish = "stop"
        elif len(output) + 1 == request.max_tokens:
            finish = "length"
        elif self._walk is not None:
            # Its mask is computed while others take their tokens and the graph runs.
            self._walk.advance(token)
        self._emit(self._with_logprobs(token, logits, finish))

    def _with_logprobs(self, token: int, logits: Logits, finish: Finish | None) -> Token:
        """A token of the answer with the log-probabilities that the request asks for."""
        if self._request.logprobs is None:
            return Token(token, finish=finish)
        logprobs = log_softmax(logits)
        return Token(token, float(logprobs[token]), most_likely(logprobs, self._request.logprobs), finish)


class ScoredSequence(AwaitedSequence):
    """Keeps logits [positions, vocab], for comparison with another implementation. positions: ascending; None: all."""

    def __init__(
        self,
        ids: Sequence[int],
        vocab_size: int,
        pictures: Sequence[Picture] = (),
        positions: Sequence[int] | None = None,
    ) -> None:
        super().__init__(ids, pictures=pictures)
        self._positions = np.arange(len(self.tokens)) if positions is None else np.asarray(positions, int)
        if (
            not np.isin(self._positions, np.arange(len(self.tokens))).all()
            or (np.diff(self._positions) <= 0).any()
        ):
            raise ValueError(
                f"positions {positions} of {len(self.tokens)} tokens are not ascending ones of these"
            )
        self.logits = np.empty((len(self._positions), vocab_size), np.float32)

    def take(self, chunk: Chunk, logits: Logits) -> None:
        start = chunk.start - self.virtual
        first, last = np.searchsorted(self._positions, (start, start + chunk.count))
        self.logits[first:last] = logits[self._positions[first:last] - start]
        if chunk.newest:
            self.end("length")


def _nowhere(token: Token) -> None:
    """Receives the tokens of a request whose receiver has failed."""
