"""What benchmarks.serve measures: two servers, each asked over HTTP from a process that has started it, and the bare engine."""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.decode_sides import KV_BYTES, ROWS
from benchmarks.http_streams import Answer, ask_all
from benchmarks.sides import Measured
from benchmarks.workers import Work

Messages = list[dict[str, str]]


def ptune_server(bundle: Path, profile: str, threads: int) -> Work:
    """`ptune serve`, without its page."""
    from ptune.verify.server import serving

    options = (
        "--profile",
        profile,
        "--kv-gb",
        str(KV_BYTES / 2**30),
        "--max-rows",
        str(ROWS),
        "--num-speculative-tokens",
        "0",
    )
    url = _opened(serving(bundle, threads, *options))

    def work(
        chats: Sequence[Messages], new_tokens: int, adapters: Sequence[str] | None, ends: list[int]
    ) -> Measured:
        bodies = [
            {**_body(messages, new_tokens, ends), "model": name}
            for messages, name in zip(chats, adapters or ["base"] * len(chats), strict=True)
        ]
        return told(ask_all(url, bodies))

    return work


def llama_server(model: Path, loras: Sequence[Path], threads: int, slots: int, binary: Path | None) -> Work:
    """llama-server (benchmarks.llama_server), its adapters chosen by each request."""
    url = _opened(_llama(model, loras, threads, slots, binary))

    def work(
        chats: Sequence[Messages], new_tokens: int, adapters: Sequence[int] | None, ends: list[int]
    ) -> Measured:
        bodies: list[dict[str, Any]] = [_body(messages, new_tokens, ends) for messages in chats]
        for body, adapter in zip(bodies, adapters or [], strict=False):
            body["lora"] = [{"id": adapter, "scale": 1.0}]
        return told(ask_all(url, bodies))

    return work


def bare_engine(bundle: Path, profile: str, threads: int) -> Work:
    """The engine in this process, its tokens drawn as the server draws them, but nothing made of them."""
    from benchmarks.decode_sides import engine

    answer = engine(bundle, profile, threads)
    from ptune.codecs.chat import ChatCodec
    from ptune.formats.bundle import Bundle

    codec = ChatCodec.open(Bundle.open(bundle).codec_path)

    def work(
        chats: Sequence[Messages], new_tokens: int, adapters: Sequence[str] | None, ends: list[int]
    ) -> Measured:
        prompts = [list(codec.encode_prompt(messages)) for messages in chats]
        found = answer(prompts, new_tokens, adapters)
        return {
            "tokens": [len(row) for row in found["tokens"]],
            "prompt_tokens": [len(prompt) for prompt in prompts],
            "tokens_per_s": found["whole_per_s"],
        }

    return work


def told(answers: Sequence[Answer]) -> Measured:
    """What clients saw: tokens a second from the first request to the last piece, and everybody's waiting times."""
    seconds = max(one.ended_s for one in answers) - min(one.began_s for one in answers)
    return {
        "tokens": [one.tokens for one in answers],
        "prompt_tokens": [one.prompt_tokens for one in answers],
        "tokens_per_s": sum(one.tokens for one in answers) / seconds,
        "first_s": [one.times[0] for one in answers],
        "between_s": [b - a for one in answers for a, b in zip(one.times, one.times[1:], strict=False)],
        "texts": [one.text for one in answers],
    }


def _body(messages: Messages, new_tokens: int, ends: list[int]) -> dict[str, Any]:
    """Greedy, and no end before the last token: the tokens that end an answer are forbidden."""
    return {
        "messages": messages,
        "max_tokens": new_tokens,
        "temperature": 0,
        "logit_bias": {str(token): -100 for token in ends},
    }


@contextlib.contextmanager
def _llama(
    model: Path, loras: Sequence[Path], threads: int, slots: int, binary: Path | None
) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.llama_server", str(model), "--slots", str(slots)]
    command += ["--threads", str(threads), *(["--lora", *map(str, loras)] if loras else [])]
    command += ["--binary", str(binary)] if binary is not None else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("llama-server did not start")
        try:
            yield url
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _opened(server: contextlib.AbstractContextManager[str]) -> str:
    """Enters a context until this process ends."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(server)
