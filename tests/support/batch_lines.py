"""Inputs of batches, and servers that keep files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai
from fastapi import FastAPI

from ptune_serve.app import create_app
from ptune_serve.files.store import FilesOptions, FileStore
from ptune_serve.service import Service, Settings
from support.fake_chat_model import FakeChatModel, serving, wait_until

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")


def line(custom_id: str, content: str = "ahoy", url: str = CHAT, **fields: Any) -> dict[str, Any]:
    """A line that asks the adapter `pirate` for a chat."""
    body = {"model": "pirate", "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **fields}}


def jsonl(*lines: Any) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in lines).encode()


def many(count: int) -> bytes:
    """The lines `0`, `1`, …, each of which says its number."""
    return jsonl(*(line(str(number), f"number {number}") for number in range(count)))


@dataclass
class Filing:
    """A server that keeps files, and OpenAI's client of it."""

    url: str
    service: Service
    client: openai.OpenAI

    @property
    def store(self) -> FileStore:
        assert self.service.files is not None
        return self.service.files.store

    def uploaded(self, content: bytes, name: str = "asked.jsonl") -> str:
        return self.client.files.create(file=(name, content), purpose="batch").id

    def begun(self, content: bytes, endpoint: Any = CHAT, **fields: Any) -> str:
        """The id of a new batch."""
        file_id = self.uploaded(content)
        fields = {"completion_window": "24h", **fields}
        return self.client.batches.create(input_file_id=file_id, endpoint=endpoint, **fields).id

    def now(self, batch_id: str) -> Any:
        """The batch as it is now."""
        return self.client.batches.retrieve(batch_id)

    def ended(self, batch_id: str) -> Any:
        """The batch at its end."""
        return ended(self.client, batch_id)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """What a file holds."""
        return lines_of(self.client, file_id)


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    wait_until(lambda: client.batches.retrieve(batch_id).status in ENDED)
    return client.batches.retrieve(batch_id)


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(raw) for raw in client.files.content(file_id).text.splitlines()]


def said(entry: dict[str, Any]) -> str:
    """The text of a chat's answer in an output."""
    text: str = entry["response"]["body"]["choices"][0]["message"]["content"]
    return text


@contextmanager
def filing(
    folder: Path,
    model: FakeChatModel | None = None,
    *,
    app: Callable[[Settings], FastAPI] | None = None,
    api_key: str = "any",
    options: dict[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
    **settings: Any,
) -> Iterator[Filing]:
    """A server over the fake model, or another app, on a real socket."""
    with FilesOptions(folder, **(options or {})).opened() as store:
        if clock is not None:
            store.clock = clock
        chosen = Settings(files=store, **settings)
        made = app(chosen) if app is not None else create_app(model or FakeChatModel(), chosen)
        with (
            serving(made) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=20) as client,
        ):
            yield Filing(url, made.state.service, client)
