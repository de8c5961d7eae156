"""A request with beams on its way: as many rows as beams, and a copy wherever a beam is continued twice.

The prompt is computed once, in the first row; the others wait beside it, each with a slot already, so that a search which
has begun never waits for room. Then all beams compute a token in every step. The first continuation of a beam stays
in its row and costs nothing; a further one goes to a row whose beam nobody continues, and of the cache only those places are
copied in which the two differ.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.beams import BeamSearch
from ptune.engine.decoder.generation import RequestSequence
from ptune.engine.decoder.request import Beams, Finish, Request, Token
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.sampling import Floats, log_softmax, require_numbers

Logits = npt.NDArray[np.float32]
Fork = Callable[[TokenSequence, TokenSequence], None]
"""Makes the second row what the first has computed (see Slots.fork)."""


class BeamGroup(RequestSequence):
    """The first row of a beam search, which stands for all of them before the scheduler. Tells nothing before its end."""

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
        self._others = [_BeamSequence(self, place) for place in range(1, beams.num_beams)]
        self._live = [0]  # where among the rows each live beam is
        self._heard: dict[int, Floats] = {}  # log-probabilities [vocab] of a row's next token

    @property
    def rows(self) -> tuple[TokenSequence, ...]:
        return (self, *self._others)

    def take(self, chunk: Chunk, logits: Logits) -> None:
        """Raises: PtuneError where the logits are not numbers."""
        self.hear(0, chunk, logits)

    def hear(self, place: int, chunk: Chunk, logits: Logits) -> None:
        """Notes what may follow a row's beam, and goes on when that is known of all. After they gave way, it may take some steps.

        Raises: PtuneError where the logits are not numbers.
        """
        if self.finished or not chunk.newest:
            return
        require_numbers(logits)
        self._heard[place] = log_softmax(logits[-1])
        rows = self.rows
        if all(beam in self._heard and not rows[beam].uncached for beam in self._live):
            parents = self._search.step([self._heard[beam] for beam in self._live])
            self._heard.clear()
            if self._search.done:
                self._tell()
            else:
                self._follow(parents)

    def end(self, finish: Finish, error: str | None = None) -> None:
        """What a failed search has left in its slots is found by nobody."""
        if finish == "error":
            for row in self.rows:
                row.cached = 0
        super().end(finish, error)

    def give_up(self) -> None:
        """A late search answers with the best that it has by then."""
        if self._search.live[0].tokens and not self.cancelled:
            self._tell()
        else:
            super().give_up()

    def _follow(self, parents: Sequence[int]) -> None:
        """Puts the live beams into rows."""
        rows, sources = self.rows, [self._live[parent] for parent in parents]
        free = [place for place in range(len(rows)) if place not in sources]
        self._live = []
        for source in sources:
            place = source
            if source in self._live:  # that beam has been continued in its own row
                place = free.pop()
                self._fork(rows[source], rows[place])
            self._live.append(place)
        for place, beam in zip(self._live, self._search.live, strict=True):
            rows[place].tokens.append(beam.tokens[-1])

    def _tell(self) -> None:
        """Delivers the answer."""
        score, tokens = self._search.best()
        for token in tokens[:-1]:
            self._emit(Token(token))
        finish: Finish = "stop" if tokens[-1] in self._request.stop_ids else "length"
        self._emit(Token(tokens[-1], finish=finish, score=score))


class _BeamSequence(TokenSequence):
    """A further row of a search."""

    def __init__(self, search: BeamGroup, place: int) -> None:
        super().__init__([], tenant=search.tenant, weight=search.weight)
        self._place = place
        self._search: BeamGroup = weakref.proxy(search)  # no cycle: an adapter that is gone frees its memory

    def take(self, chunk: Chunk, logits: Logits) -> None:
        self._search.hear(self._place, chunk, logits)

    def end(self, finish: Finish, error: str | None = None) -> None:
        self._search.end(finish, error)
