"""Writes an answer as a `response` of OpenAI's Responses API, or as the events that build one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.errors import RequestError

from ..openai.answer_blocks import AnswerBlocks, Began, Block, BlockEvent, Grew
from .items import item_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..openai.chat import ChatReply
    from .schemas import ResponsesRequest
    from .store import ResponseStore

Event = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """Where a response is kept when it is complete. items: the conversation that it answers."""

    store: ResponseStore
    key: str
    items: Sequence[BaseModel]


class ResponseReply:
    """One response. kept: None if it is not to be kept."""

    def __init__(
        self, answer: ChatReply, body: ResponsesRequest, response_id: str, created: int, kept: Kept | None
    ) -> None:
        self.response_id = response_id
        self._answer = answer
        self._blocks = AnswerBlocks(answer)
        self._kept = kept
        self._written = 0  # events
        self._head = _head(body, response_id, created)

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""
        return self._answer.call.closed

    def now(self) -> dict[str, Any]:
        """The response as it is now."""
        return self._response("in_progress", whole=False)

    def cancel(self) -> dict[str, Any]:
        """Ends the answer where it is, and returns the response."""
        self._answer.call.stop(0, "cancelled")
        return self._response("cancelled", whole=True)

    def failed(self, error: RequestError) -> Event:
        """The event of a stream that an error ends."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        response = self._response("failed", whole=True)
        return self._event("failed", response={**response, "error": {"code": code, "message": str(error)}})

    async def whole(self) -> dict[str, Any]:
        """The response."""
        async for _ in self._blocks.events():
            pass
        return self._ended()

    async def chunks(self) -> AsyncIterator[Event]:
        """The events, as tokens arrive."""
        yield self._event("created", response=self.now())
        yield self._event("in_progress", response=self.now())
        async for event in self._blocks.events():
            for kind, fields in _told(event, self._status(event.block)):
                yield self._event(kind, **fields)
        response = self._ended()
        kind = "completed" if response["status"] == "completed" else "incomplete"
        yield self._event(kind, response=response)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._written += 1
        return {"type": f"response.{kind}", "sequence_number": self._written - 1, **fields}

    def _status(self, block: Block, of_response: str = "") -> str:
        """Of an item: only the last one can have been cut, or be in progress."""
        if block.followed or (self._blocks.finish == "stop" and not block.cut):
            return "completed"
        return "in_progress" if of_response == "in_progress" else "incomplete"

    def _ended(self) -> dict[str, Any]:
        """The response at its end. It is kept before a client can know that it has ended."""
        statuses = {"stop": "completed", "length": "incomplete", None: "cancelled"}
        response = self._response(statuses[self._blocks.finish], whole=True)
        return response if self._kept is None else {**response, "store": self._keep(self._kept, response)}

    def _keep(self, kept: Kept, response: dict[str, Any]) -> bool:
        """Keeps a response; whether that went. An answer that no request may hold, with a NUL, is not kept."""
        try:
            items = [*kept.items, *(item_of(item) for item in response["output"])]
        except ValueError:
            return False
        return kept.store.keep(kept.key, response, items)

    def _response(self, status: str, *, whole: bool) -> dict[str, Any]:
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        output = [_item(block, self._status(block, status)) for block in self._blocks.blocks]
        usage = self._usage() if whole else None
        return {**self._head, "status": status, "incomplete_details": cut, "output": output, "usage": usage}

    def _usage(self) -> dict[str, Any]:
        usage = self._answer.usage()
        thinking = usage.get("completion_tokens_details", {"reasoning_tokens": 0})
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": thinking,
            "total_tokens": usage["total_tokens"],
        }


def _head(body: ResponsesRequest, response_id: str, created: int) -> dict[str, Any]:
    """What a response says of its request, whatever became of it."""
    named = ("name", "description", "parameters", "strict")
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "model": body.model,
        "error": None,
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "service_tier": "default",
        "store": body.store,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": body.tool_choice,
        "tools": [
            {"type": "function", **{name: getattr(tool, name) for name in named}} for tool in body.tools
        ],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _told(event: BlockEvent, status: str) -> list[tuple[str, Event]]:
    """The events that tell what happened to a block. status: of its item, if it has ended."""
    block = event.block
    kind = {"reasoning": "reasoning_text", "text": "output_text", "call": "function_call_arguments"}[
        block.kind
    ]
    item: Event = {"item_id": _item_id(block), "output_index": block.index}
    place = item if block.kind == "call" else {**item, "content_index": 0}
    scored: Event = {"logprobs": []} if block.kind == "text" else {}
    if isinstance(event, Grew):
        return [(f"{kind}.delta", {**place, "delta": event.text, **scored})]
    if isinstance(event, Began):
        begun = _item(block, "in_progress", empty=True)
        part = [] if block.kind == "call" else [("content_part.added", {**place, "part": _part(block, "")})]
        return [("output_item.added", {"output_index": block.index, "item": begun}), *part]
    if block.kind == "call":
        done = [(f"{kind}.done", {**place, "name": block.name, "arguments": block.text})]
    else:
        done = [
            (f"{kind}.done", {**place, "text": block.text, **scored}),
            ("content_part.done", {**place, "part": _part(block, block.text)}),
        ]
    return [*done, ("output_item.done", {"output_index": block.index, "item": _item(block, status)})]


def _item(block: Block, status: str, *, empty: bool = False) -> dict[str, Any]:
    head = {"id": _item_id(block), "status": status}
    if block.kind == "call":
        arguments = "" if empty else block.text
        called = {"call_id": block.call_id, "name": block.name, "arguments": arguments}
        return {**head, "type": "function_call", **called}
    content = [] if empty else [_part(block, block.text)]
    if block.kind == "reasoning":
        return {**head, "type": "reasoning", "summary": [], "content": content}
    return {**head, "type": "message", "role": "assistant", "content": content}


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item_id(block: Block) -> str:
    prefix = {"reasoning": "rs", "text": "msg", "call": "fc"}[block.kind]
    return f"{prefix}_{block.item_id}"
