"""A request with beams on its way: one sequence for each beam, and a copy wherever a beam is continued twice.

The prompt is computed once, in the first sequence. The others wait beside it with slots of their own, so that a search never
waits for room once it was admitted. Then every step computes a token of each beam. A beam's first continuation stays in its
sequence and costs nothing; a further one moves to a sequence whose beam was abandoned, and only the part of the cache in
which the two differ is copied.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.answers.beams import BeamSearch
from ptune.engine.decoder.answers.generation import RequestSequence
from ptune.engine.decoder.request import Beams, Request, Token
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.job import Finish
from ptune.engine.sampling import Floats, log_softmax, require_numbers

Logits = npt.NDArray[np.float32]
Fork = Callable[[TokenSequence, TokenSequence], None]
"""Makes the second sequence a copy of the first (see Slots.fork)."""


class BeamGroup(RequestSequence):
    """The first sequence of a beam search, which leads the group in the scheduler. Delivers nothing before its end."""

    def __init__(
        self,
        request: Request,
        beams: Beams,
        fork: Fork,
        deliver: Callable[[Token], None],
        deadline_s: float = math.inf,
    ) -> None:
        """deadline_s: on the engine's clock."""
        super().__init__(request, deliver, deadline_s)
        self._search = BeamSearch(beams, request.max_tokens, request.stop_ids)
        self._fork = fork
        self._others = [_BeamSequence(self, member) for member in range(1, beams.num_beams)]
        self._live = [0]  # index in the group of each live beam
        self._logprobs: dict[int, Floats] = {}  # [vocab] of the next token, by index in the group

    @property
    def group(self) -> tuple[TokenSequence, ...]:
        return (self, *self._others)

    def take(self, chunk: Chunk, logits: Logits) -> None:
        """Raises: PtuneError where the logits are not numbers."""
        self.take_of(0, chunk, logits)

    def take_of(self, member: int, chunk: Chunk, logits: Logits) -> None:
        """Consumes the logits of a member; advances the search once all live beams have theirs, some steps after a preemption.

        Raises: PtuneError where the logits are not numbers.
        """
        if self.finished or not chunk.newest:
            return
        require_numbers(logits)
        self._logprobs[member] = log_softmax(logits[-1])
        sequences = self.group
        if all(beam in self._logprobs and not sequences[beam].uncached for beam in self._live):
            parents = self._search.step([self._logprobs[beam] for beam in self._live])
            self._logprobs.clear()
            if self._search.done:
                self._deliver_best()
            else:
                self._follow(parents)

    def end(self, finish: Finish, error: str | None = None) -> None:
        """Finishes the search; after an error, the content of its slots is not reused."""
        if finish == "error":
            for sequence in self.group:
                sequence.cached = 0
        super().end(finish, error)

    def give_up(self) -> None:
        """Answers with the best beam so far if the search has expired."""
        if self._search.live[0].tokens and not self.cancelled:
            self._deliver_best()
        else:
            super().give_up()

    def _follow(self, parents: Sequence[int]) -> None:
        """Assigns the live beams to sequences."""
        sequences, sources = self.group, [self._live[parent] for parent in parents]
        free = [member for member in range(len(sequences)) if member not in sources]
        self._live = []
        for source in sources:
            member = source
            if source in self._live:  # that beam has been continued in its own sequence
                member = free.pop()
                self._fork(sequences[source], sequences[member])
            self._live.append(member)
        for member, beam in zip(self._live, self._search.live, strict=True):
            sequences[member].tokens.append(beam.tokens[-1])

    def _deliver_best(self) -> None:
        """Delivers the answer."""
        score, tokens = self._search.best()
        for token in tokens[:-1]:
            self._emit(Token(token))
        finish: Finish = "stop" if tokens[-1] in self._request.stop_ids else "length"
        self._emit(Token(tokens[-1], finish=finish, score=score))


class _BeamSequence(TokenSequence):
    """Another sequence of a search."""

    def __init__(self, search: BeamGroup, member: int) -> None:
        super().__init__([], tenant=search.tenant, weight=search.weight)
        self._member = member
        self._search: BeamGroup = weakref.proxy(search)  # no cycle: an adapter that is gone frees its memory

    def take(self, chunk: Chunk, logits: Logits) -> None:
        self._search.take_of(self._member, chunk, logits)

    def end(self, finish: Finish, error: str | None = None) -> None:
        self._search.end(finish, error)
