"""A server that is not ptune's: torch behind HTTP, in the shapes of llama-server, vLLM or one that takes texts alone."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

import torch

from ptune.codecs.chat import ChatCodec


@dataclass
class Foreign:
    """What answers, and in which way it is strange."""

    model: torch.nn.Module
    codec: ChatCodec
    shape: Literal["llama", "vllm", "text"] = "llama"
    bos: Literal["", "more", "less"] = ""  # what it does to the prompt of every conversation
    bos_in_texts: bool = False  # it does the same to completions, as no client could help
    usage: bool = True
    most_logprobs: int = 20
    asked: int = 0

    def prompt_of(self, ids: Sequence[int]) -> list[int]:
        token = self.codec.tokenizer.token_to_id("<s>")
        return (
            [cast("int", token), *ids] if self.bos == "more" else [*ids[1:]] if self.bos == "less" else [*ids]
        )

    @torch.no_grad()
    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)

    def greedy(self, ids: list[int], most: int) -> list[tuple[int, torch.Tensor]]:
        said: list[tuple[int, torch.Tensor]] = []
        while len(said) < most and not (said and said[-1][0] in self.codec.eos_ids):
            row = self.log_probs([*ids, *(token for token, _ in said)])[-1]
            said.append((int(row.argmax()), row))
        return said

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked += 1
        chat = path == "/v1/chat/completions"
        count = body.get("top_logprobs") if chat else body.get("logprobs")
        if chat:
            ids = self.prompt_of(self.codec.encode_prompt(body["messages"]))
        elif path != "/v1/completions":
            return 404, {"error": "no such path"}
        elif isinstance(body["prompt"], str):
            ids = self.codec.tokenizer.encode(body["prompt"], add_special_tokens=False).ids
            ids = self.prompt_of(ids) if self.bos_in_texts else ids
        elif self.shape == "text":
            return 400, {"error": "prompt must be a string"}
        else:
            ids = self.prompt_of(body["prompt"]) if self.bos_in_texts else [*body["prompt"]]
        if not isinstance(count, int) or count > self.most_logprobs:
            return 400, {"error": f"at most {self.most_logprobs} logprobs"}
        said = self.greedy(ids, body["max_tokens"])
        shown = self._content(said, count) if chat or self.shape == "llama" else self._lists(ids, said, body)
        choice = {"index": 0, "logprobs": shown, "finish_reason": "length", "text": ""}
        usage = {"usage": {"prompt_tokens": len(ids)}} if self.usage else {}
        return 200, {"choices": [choice], **usage}

    def _content(self, said: Sequence[tuple[int, torch.Tensor]], count: int) -> dict[str, Any]:
        def entry(token: int, row: torch.Tensor) -> dict[str, Any]:
            named = {"id": token} if self.shape == "llama" else {}
            return {"token": self.codec.token_text(token), "logprob": float(row[token]), **named}

        return {
            "content": [
                entry(token, row) | {"top_logprobs": [entry(int(at), row) for at in row.topk(count).indices]}
                for token, row in said
            ]
        }

    def _lists(
        self, ids: list[int], said: Sequence[tuple[int, torch.Tensor]], body: dict[str, Any]
    ) -> dict[str, Any]:
        def name(token: int) -> str:
            return f"token_id:{token}" if self.shape == "vllm" else self.codec.token_text(token)

        scored: list[tuple[int, torch.Tensor | None]] = [*said]
        if body.get("echo") and self.shape == "vllm":
            rows = self.log_probs(ids)
            scored = [(ids[0], None), *zip(ids[1:], rows, strict=False), *said]
        tops = [
            None
            if row is None
            else {name(int(at)): float(row[at]) for at in row.topk(body["logprobs"]).indices}
            for _, row in scored
        ]
        values = [None if row is None else float(row[token]) for token, row in scored]
        return {
            "tokens": [name(token) for token, _ in scored],
            "token_logprobs": values,
            "top_logprobs": tops,
        }


@contextlib.contextmanager
def standing(foreign: Foreign) -> Iterator[str]:
    """Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "the-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*foreign.answer(self.path, body))

        def _send(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
