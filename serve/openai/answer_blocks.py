"""An answer as blocks, one after the other: reasoning, text, calls. For APIs that have no single message."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from .chat import ChatReply


@dataclass
class Block:
    """A part of an answer. text: as far as it is written; of a call, its arguments as JSON."""

    index: int
    kind: Literal["reasoning", "text", "call"]
    text: str = ""
    call_id: str = ""
    name: str = ""  # of the function that is called
    cut: bool = False  # of a call: the answer ended in it
    followed: bool = False  # another block began behind it, so it is whole
    item_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Began:
    """A block began."""

    block: Block


@dataclass(frozen=True)
class Grew:
    """A block got more text."""

    block: Block
    text: str


@dataclass(frozen=True)
class Ended:
    """A block is complete, or the answer was cut in it."""

    block: Block


BlockEvent: TypeAlias = Began | Grew | Ended


class AnswerBlocks:
    """Reads the chunks of a chat's only answer. finish: why it ended; None if it was cancelled, or goes on."""

    def __init__(self, reply: ChatReply) -> None:
        self.blocks: list[Block] = []
        self.finish: Literal["stop", "length"] | None = None
        self._reply = reply
        self._open: Block | None = None
        self._logprobs: list[dict[str, Any]] = []

    async def events(self) -> AsyncIterator[BlockEvent]:
        """What happens to the blocks, as tokens arrive. Raises: as the chunks of a chat."""
        async for chunk in self._reply.chunks():
            for choice in chunk["choices"]:
                if choice["logprobs"] is not None:
                    self._logprobs += choice["logprobs"]["content"]
                if (reason := choice["finish_reason"]) is not None:
                    self.finish = "length" if reason == "length" else "stop"
                for event in self._read(choice["delta"]):
                    yield event
        if self._open is not None:
            self._open.cut = self._reply.calling(0)
        for event in self._close():
            yield event

    @property
    def calls(self) -> bool:
        """Whether the answer calls a tool, and does not end within a call."""
        called = [block for block in self.blocks if block.kind == "call"]
        return bool(called) and not called[-1].cut

    def taken_logprobs(self) -> list[dict[str, Any]]:
        """The log-probabilities of the tokens since they were last taken; empty if they were not requested."""
        taken, self._logprobs = self._logprobs, []
        return taken

    def _read(self, delta: dict[str, Any]) -> Iterator[BlockEvent]:
        if thought := delta.get("reasoning_content"):
            yield from self._written("reasoning", thought)
        if said := delta.get("content"):
            yield from self._written("text", said)
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                yield from self._begin(
                    Block(len(self.blocks), "call", call_id=call["id"], name=function["name"])
                )
            if function["arguments"]:
                yield self._grow(function["arguments"])

    def _written(self, kind: Literal["reasoning", "text"], text: str) -> Iterator[BlockEvent]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Block(len(self.blocks), kind))
        yield self._grow(text)

    def _begin(self, block: Block) -> Iterator[BlockEvent]:
        if self._open is not None:
            self._open.followed = True
        yield from self._close()
        self.blocks.append(block)
        self._open = block
        yield Began(block)

    def _grow(self, text: str) -> BlockEvent:
        block = self.blocks[-1]
        block.text += text
        return Grew(block, text)

    def _close(self) -> Iterator[BlockEvent]:
        if self._open is not None:
            yield Ended(self._open)
        self._open = None
