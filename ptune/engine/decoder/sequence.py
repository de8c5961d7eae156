"""A sequence on its way through the engine, and the chunk of it that one step computes. Pure Python: no arrays, no clock."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ptune.codecs.vision import FIRST_ROW
from ptune.errors import PtuneError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ptune.codecs.positions import TokenPositions
    from ptune.engine.adapters.lora import Adapter
    from ptune.engine.decoder.inputs.images import Picture
    from ptune.engine.job import Finish


VIRTUAL = -1  # id of virtual tokens, which have none
NEVER = sys.maxsize  # index of a token that does not come


@dataclass(eq=False)
class TokenSequence:
    """One sequence on its way through the engine, a `ptune.engine.job.Job`. Subclasses decide how its logits are used."""

    tokens: list[int]  # its adapter's virtual tokens, prompt and output so far
    adapter: Adapter | None = None  # None = the bare base; set by `begin`
    all_logits: bool = False  # needs the logits of every token, not only of the newest
    tenant: str = ""  # pays for the computation
    weight: float = 1.0  # of the tenant, relative to others
    deadline_s: float = math.inf  # on the engine's clock
    most_tokens: int = sys.maxsize  # that it may ever have
    pictures: Sequence[Picture] = ()  # whose rows are among its tokens
    virtual: int = field(default=0, init=False)  # number of virtual tokens among `tokens`
    invoked: int = field(default=NEVER, init=False)  # index in `tokens` of its adapter's last invocation
    slot: int | None = field(default=None, init=False)  # its slot in the cache while it runs
    cached: int = field(default=0, init=False)  # number of `tokens` that have been computed
    reused: int = field(default=0, init=False)  # of its own tokens, those found in the cache at first
    cancelled: bool = field(default=False, init=False)  # any thread may set it; obeyed before the next step
    expired: bool = field(default=False, init=False)  # its deadline has passed; obeyed likewise
    finished: bool = field(default=False, init=False)
    billed_tokens: int = field(
        default=0, init=False
    )  # number of `tokens` that its tenant has been charged for
    preempted: int = field(default=0, init=False)  # times that it lost its slot
    positions: int = field(default=0, init=False)  # of the cache, that its group takes or waits for
    prefix_leader: tuple[TokenSequence, int] | None = field(
        default=None, init=False
    )  # computes the shared prefix: this one waits until the leader has cached so many tokens
    deferred: bool = field(default=False, init=False)  # has waited for a leader; it does so once
    stops: set[int] = field(
        default_factory=set, init=False
    )  # numbers of tokens after which the states of its layers are kept

    @property
    def group(self) -> tuple[TokenSequence, ...]:
        """This sequence and those that are admitted, preempted and finished with it. Each needs a slot; only this one is
        in the scheduler's queues."""
        return (self,)

    @property
    def text(self) -> list[int]:
        """Its tokens without the virtual ones."""
        return self.tokens[self.virtual :]

    @cached_property
    def placed(self) -> TokenPositions | None:
        """The positions of its first tokens, if it has images whose rows have some by their place; tokens of text follow."""
        grids = {one.first: one.places for one in self.pictures if one.places is not None}
        if not grids:
            return None
        from ptune.codecs.positions import TokenPositions

        return TokenPositions.of(self.tokens, grids)

    @property
    def acts_from(self) -> int:
        """Index in `tokens` from which on its adapter acts; before that they are computed with the bare base."""
        if self.adapter is None:
            return NEVER
        return self.invoked if self.adapter.invocation else 0

    def plugged(self, at: int) -> Adapter | None:
        """Its adapter, if that has factors, which a step multiplies the token at an index by."""
        if self.adapter is None or self.adapter.prefix is not None or at < self.acts_from:
            return None
        return self.adapter

    def at_once(self, count: int) -> int:
        """So many of the next tokens, or fewer: those that are all computed with its adapter, or all without, and those before the next
        stop."""
        return min(
            [count, *(place - self.cached for place in (self.acts_from, *self.stops) if place > self.cached)]
        )

    def begin(self, adapter: Adapter | None) -> None:
        """Gives it its adapter, finds where that is invoked, and adds the virtual tokens that it puts before a text: they are never
        computed, but copied into its slot (`ptune.engine.decoder.cache.slots`)."""
        self.adapter = adapter
        if adapter is not None and adapter.invocation:
            self.invoked = last_start(self.tokens, adapter.invocation)
        if adapter is not None and adapter.prefix is not None and self.tokens:
            self.virtual = adapter.prefix.tokens
            self.tokens = [VIRTUAL] * self.virtual + self.tokens
            self.most_tokens += self.virtual

    def misfit(self, context: int, vocab: int) -> str:
        """What its adapter has that it cannot be computed with; empty where it can. It may have waited for another one of that name.

        context: the longest sequence. vocab: the base's tokens.
        """
        assert self.adapter is not None
        if self.most_tokens > context:
            return "more virtual tokens"
        known = vocab if self.adapter.ends is None else self.adapter.ends.vocab
        return "fewer tokens" if any(known <= token < FIRST_ROW for token in self.tokens) else ""

    @property
    def uncached(self) -> int:
        """Number of tokens still to be computed."""
        return len(self.tokens) - self.cached

    @property
    def ended(self) -> bool:
        """Whether it was cancelled or has expired, so that nothing more is computed for it."""
        return self.cancelled or self.expired

    def draft(self, most: int) -> tuple[int, ...]:
        """Proposes at most `most` tokens that may follow the newest one, to be computed along with it."""
        return ()

    def most_drafted(self, most: int) -> int:
        """How many tokens, at most `most`, may be proposed to follow the newest one."""
        return 0

    def take(self, chunk: Chunk, logits: npt.NDArray[np.float32]) -> None:
        """Consumes the logits [wanted, vocab] of a chunk that has been computed; may append the next token."""

    @property
    def sits_out(self) -> bool:
        """Whether all its tokens are computed, and the next one cannot be chosen yet: it has no part in a step."""
        return False

    def take_up(self) -> bool:
        """Chooses the next token of a sequence that sits out, if it can be chosen now. As `take`, between two steps.

        Returns whether it did; the sequence may have ended by that.
        """
        return False

    def end(self, finish: Finish, error: str | None = None) -> None:
        """Finishes the sequence."""
        self.finished = True

    def cancel(self) -> None:
        """Marks it as cancelled."""
        self.cancelled = True

    def give_up(self) -> None:
        """Finishes a sequence that was cancelled or has expired."""
        self.end("cancelled")

    def shut_down(self) -> None:
        """Finishes a sequence, which has been cancelled, because the engine closes."""
        self.give_up()

    def fail(self, error: PtuneError) -> None:
        """Finishes it with an error."""
        self.end("error", str(error))


class AwaitedSequence(TokenSequence):
    """A sequence on whose end a thread waits."""

    def __init__(
        self, ids: Sequence[int], adapter: Adapter | None = None, pictures: Sequence[Picture] = ()
    ) -> None:
        super().__init__(list(ids), adapter, all_logits=True, most_tokens=len(ids), pictures=pictures)
        self._error: str | None = None
        self._done = threading.Event()

    def end(self, finish: Finish, error: str | None = None) -> None:
        if not self.finished:
            self._error = error if finish != "cancelled" else "the engine was closed"
            self.finished = True
            self._done.set()

    def wait(self) -> None:
        """Waits for the end. Raises: PtuneError where a step failed, or the engine was closed."""
        self._done.wait()
        if self._error:
            raise PtuneError(self._error)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + count) of a sequence and draft tokens after them: its part of one step."""

    sequence: TokenSequence
    start: int
    count: int
    draft: tuple[int, ...] = ()  # only where the chunk reaches the newest token
    room: int = 0  # tokens that a draft model may propose in place of `draft`

    def __len__(self) -> int:
        return self.count + len(self.draft)

    @property
    def tokens(self) -> list[int]:
        return [*self.sequence.tokens[self.start : self.start + self.count], *self.draft]

    @property
    def plugged(self) -> Adapter | None:
        """The adapter whose factors its tokens meet."""
        return self.sequence.plugged(self.start)

    @property
    def sees(self) -> bool:
        """Whether rows of images are among its tokens."""
        return bool(self.sequence.pictures) and max(self.tokens) >= FIRST_ROW

    @property
    def newest(self) -> bool:
        """Whether the chunk reaches the sequence's newest token, whose logits choose the next one."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def wanted(self) -> range:
        """The chunk's columns whose logits are needed."""
        return range(0 if self.sequence.all_logits else self.count - self.newest, len(self))


def last_start(tokens: Sequence[int], sought: Sequence[int]) -> int:
    """Where a sequence of tokens stands last in others; NEVER where it does not."""
    size = len(sought)
    places = range(len(tokens) - size, -1, -1)
    return next((at for at in places if tuple(tokens[at : at + size]) == tuple(sought)), NEVER)
