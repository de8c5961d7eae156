"""Answers a list of prompts as fast as the engine can: all are in flight at once."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ptune.engine.job import Finish
from ptune.errors import PtuneError, RequestError, TemplateError
from ptune.progress import Progress
from ptune.tasks.chat.infer import ChatModel
from ptune.tasks.chat.text_stream import Delta

IN_FLIGHT = 64


def answer_all(
    model: ChatModel,
    rows: Sequence[Mapping[str, Any]],
    adapter: str,
    seed: int | None,
    options: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yields each row with its `adapter`, `answer` and `finish`, in the given order; with `reasoning` if there is any.

    A row has `messages` or `prompt`, and optionally its own `adapter` and `max_tokens`. Row i samples with `seed` + i.
    A row that cannot be answered gets `finish` "error" and the reason as its answer.
    """
    waiting = deque(enumerate(rows))
    flying: deque[tuple[dict[str, Any], Iterator[Delta]]] = deque()
    with Progress("answering", len(rows), unit="rows") as progress:
        while True:
            while len(flying) < IN_FLIGHT and waiting:
                number, row = waiting[0]
                named = {**row, "adapter": row.get("adapter", adapter)}
                own = {"seed": None if seed is None else seed + number}
                own |= {"max_tokens": row["max_tokens"]} if "max_tokens" in row else {}
                try:
                    flying.append((named, _start(model, named, {**options, **own})))
                except (
                    RequestError,
                    TemplateError,
                ) as error:  # the other rows still get their answers
                    if isinstance(error, RequestError) and error.status == 429 and flying:
                        break  # until the first of those that fill the engine's queue has its answer
                    flying.append((named, iter([_failed(error)])))
                waiting.popleft()
            if not flying:
                return
            row, deltas = flying.popleft()
            try:
                answered = _finished(deltas)
            except PtuneError as error:
                if model.engine.metrics.stopped:
                    raise
                answered = _finished(iter([_failed(error)]))
            progress.advance()
            yield {**row, **answered}


def as_line(row: Mapping[str, Any]) -> str:
    """An answered row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False)


def _failed(error: PtuneError) -> Delta:
    """The answer of a row that has none."""
    return Delta(f"error: {error}", None, "error")


def _start(model: ChatModel, row: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Delta]:
    if "messages" in row:
        return model.chat(
            row["messages"], adapter=row["adapter"], stream=True, tools=row.get("tools"), **options
        )
    return model.complete(row["prompt"], adapter=row["adapter"], stream=True, **options)


def _finished(deltas: Iterator[Delta]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    finish: Finish = "error"
    for delta in deltas:
        texts.append(delta.text)
        thoughts.append(delta.reasoning)
        finish = delta.finish or finish
    thought = "".join(thoughts)
    return {**({"reasoning": thought} if thought else {}), "answer": "".join(texts), "finish": finish}
