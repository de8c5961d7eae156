"""ptune serve BUNDLE"""

from __future__ import annotations

import importlib
from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import parse


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
        ready_file: Written with the server's URL once it answers.
    """
    lifecycle = importlib.import_module("ptune_serve.lifecycle")
    code: int = lifecycle.serve(
        bundle,
        host=host,
        port=port,
        api_key_file=api_key_file,
        ui=ui,
        ui_port=ui_port,
        profile=profile,
        threads=threads,
        kv_gb=kv_gb,
        max_rows=max_rows,
        ready_file=ready_file,
    )
    return code
