"""ptune serve BUNDLE"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import parse
from ptune.errors import UsageError


def run(arguments: list[str]) -> int:
    return parse(serve, arguments, "serve")


def serve(
    bundle: Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    ui: bool = True,
    ui_port: int = 7860,
    profile: str | None = None,
    threads: int | None = None,
    kv_gb: float = 1.0,
    max_rows: int = 32,
    adapter_bytes: str | None = None,
    adapters_api: bool = False,
    adapter_root: Path | None = None,
    max_adapter_bytes: str = "1GB",
    max_adapters: int = 1000,
    require_parity: bool = False,
    ready_file: Path | None = None,
) -> int:
    """Serves a bundle over HTTP, a chat model in OpenAI's shape, an encoder in vLLM's, and opens a page beside it.

    The bundle's golden vectors are replayed before the first answer: a machine that computes otherwise is found out.

    Args:
        bundle: The bundle's folder.
        host: Address to listen at; the default is reachable from this machine only.
        port: Port; 0 takes a free one.
        api_key_file: File of accepted API keys, one a line.
        ui: Start the page (a process of its own).
        ui_port: Port of the page.
        profile: The bundle's graph to serve.
        threads: Threads of onnxruntime; default: all cores.
        kv_gb: Memory of a chat model's KV cache, in GB.
        max_rows: Most sequences, texts or images in one batch.
        adapter_bytes: Memory for adapters, as in 1GB; those used least recently make room. Default: all stay in memory.
        adapters_api: Let adapters be added and removed over HTTP, by whoever has a key.
        adapter_root: Folders below it may be named as adapters over HTTP.
        max_adapter_bytes: Most bytes of an adapter that is added over HTTP.
        max_adapters: Most adapters, where they are added over HTTP.
        require_parity: Refuse requests for adapters that were not measured.
        ready_file: Written with the server's URL once it answers.
    """
    lifecycle = importlib.import_module("ptune_serve.lifecycle")
    settings = importlib.import_module("ptune_serve.service").Settings(
        adapters_api=adapters_api,
        adapter_root=adapter_root,
        max_adapter_bytes=size_of(max_adapter_bytes, "--max-adapter-bytes"),
        max_adapters=max_adapters,
        require_parity=require_parity,
    )
    held = None if adapter_bytes is None else size_of(adapter_bytes, "--adapter-bytes")
    code: int = lifecycle.serve(
        bundle, host=host, port=port, api_key_file=api_key_file, ui=ui, ui_port=ui_port, profile=profile,
        threads=threads, kv_gb=kv_gb, max_rows=max_rows, adapter_bytes=held, settings=settings, ready_file=ready_file,
    )  # fmt: skip
    return code


def size_of(text: str, option: str) -> int:
    """Bytes of "1GB", "1.5 GiB", "500MB" or "1000000"; GB is 10^9 bytes, GiB 2^30. Raises: UsageError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"{option} {text!r}: a size is needed, as in 500MB or 1GiB")
    size_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))
    if not size_bytes:
        raise UsageError(f"{option} must be over 0 (is {text!r})")
    return size_bytes
