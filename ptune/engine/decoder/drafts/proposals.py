"""The draft tokens of an engine's steps: those of the draft model, if there is one, and what all of them brought."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.drafts.length import LENGTHS, DraftLength
from ptune.engine.decoder.drafts.model import DraftModel
from ptune.engine.decoder.sequence import Chunk

_log = logging.getLogger(__name__)


class Drafts:
    """Used by the engine's thread alone."""

    def __init__(self, model: DraftModel | None, cache: KvCache) -> None:
        self._model, self._cache = model, cache
        self._length = DraftLength()
        self.drafted = self.accepted = 0  # tokens that were proposed; of these, tokens of answers

    def length(self, sequences: int) -> int:
        """Tokens that the model is to propose for each of so many generating sequences."""
        return 0 if self._model is None else self._length.choose(sequences)

    def added_to(self, batch: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks, with what the model proposes for those that have room for it."""
        if self._model is None:
            return [*batch]
        rooms = {chunk.sequence: chunk.room for chunk in batch if chunk.room}
        if not rooms:
            return [*batch]
        try:
            drafts = self._model.propose(rooms)
        except Exception:
            _log.exception("the draft model failed; answers go on without it")
            self._model, drafts = None, {}
        return [replace(chunk, draft=drafts.get(chunk.sequence, chunk.draft)) for chunk in batch]

    def took(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """Counts what a step brought, once its sequences have taken it. seconds: drafting included."""
        drafted = [chunk for chunk in chunks if chunk.draft]
        # A draft follows the newest token, so that a chunk ends where its sequence did before the step.
        right = [max(0, len(one.sequence.tokens) - (one.start + one.count) - 1) for one in drafted]
        tried = [min(found + 1, len(chunk.draft)) for found, chunk in zip(right, drafted, strict=True)]
        self.drafted += sum(len(chunk.draft) for chunk in drafted)
        self.accepted += sum(right)
        if self._model is None:
            return
        length = max((chunk.room for chunk in chunks), default=0)
        reading = any(chunk.count > 1 or (chunk.room and not chunk.draft) for chunk in chunks)
        own_text = any(not chunk.room for chunk in drafted)
        if length not in LENGTHS or reading or own_text:
            return
        if not length or self._model.steady:
            self._length.observe(len(chunks), length, sum(right), sum(tried), seconds)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies cached tokens between slots, the draft model's, too."""
        self._cache.copy(source, target, start, stop)
        if self._model is not None:
            self._model.copy(source, target, start, stop)

    def cut(self, slot: int, positions: int) -> None:
        """Gives the memory of a slot behind a position back, the draft model's, too."""
        self._cache.cut(slot, positions)
        if self._model is not None:
            self._model.cut(slot, positions)

    @property
    def resident_bytes(self) -> int:
        """Memory of the draft model's keys and values that is taken now."""
        return 0 if self._model is None else self._model.resident_bytes

    def free(self) -> None:
        """Frees the draft model."""
        self._model = None
