"""llama-server in a process: python -m benchmarks.llama_server MODEL.gguf --slots 16 [--lora A.gguf B.gguf …] [--binary FILE]

The one inside the xllamacpp wheel, or a binary that was built for this CPU, with its own defaults but for slots, context and
threads. Prints its URL once it answers and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from ptune.llama_cpp.server import serve

CONTEXT = 2048  # of each slot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lora", type=Path, nargs="*", default=[])
    parser.add_argument("--binary", type=Path)
    chosen = parser.parse_args()
    if chosen.binary is None:
        serve(chosen.model, chosen.slots, chosen.threads, CONTEXT, chosen.lora, on_request=True)
    else:
        of_a_binary(chosen)


def of_a_binary(chosen: argparse.Namespace) -> None:
    """As `of_the_wheel`. Its shared libraries lie beside the binary."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [chosen.binary, "--model", chosen.model, "--port", url.rpartition(":")[2], "--no-ui"]
    command += ["--parallel", chosen.slots, "--ctx-size", chosen.slots * CONTEXT]
    command += ["--threads", chosen.threads, "--threads-batch", chosen.threads]
    if chosen.lora:
        command += ["--lora", ",".join(map(str, chosen.lora)), "--lora-init-without-apply"]
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(chosen.binary.parent)}
    silent = subprocess.DEVNULL
    with subprocess.Popen([*map(str, command)], env=libraries, stdout=silent, stderr=silent) as process:
        try:
            while process.poll() is None and not _answers(url):
                time.sleep(0.2)
            if process.returncode is None:
                print(url, flush=True)
                sys.stdin.read()
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
