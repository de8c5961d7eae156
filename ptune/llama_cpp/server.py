"""llama-server in a process of its own: python -m ptune.llama_cpp.server MODEL.gguf [--slots 16] [--lora A.gguf B.gguf …]

The one inside the xllamacpp wheel, with its own defaults but for slots, context and threads. Prints its URL once it answers and
ends when its standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ptune.child import module_command
from ptune.errors import PtuneError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--lora", type=Path, nargs="*", default=[])
    parser.add_argument("--on-request", action="store_true", help="apply an adapter where a request names it")
    chosen = parser.parse_args()
    serve(
        chosen.model, chosen.slots, chosen.threads, chosen.context, chosen.lora, on_request=chosen.on_request
    )


def serve(model: Path, slots: int, threads: int, context: int, lora: list[Path], *, on_request: bool) -> None:
    """Serves until the standard input ends. context: tokens of each slot."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.verbosity = -1
    parameters.ui = False
    parameters.use_jinja = True
    if lora:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in lora]
        parameters.lora_init_without_apply = on_request
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def serving(
    model: Path, adapter: Path | None = None, *, threads: int = 1, context: int = 2048
) -> Iterator[str]:
    """A server with one slot, while the block lasts; its URL. Raises: PtuneError where it does not start."""
    options = ["--threads", str(threads), "--context", str(context)]
    command = module_command("ptune.llama_cpp.server", str(model), *options)
    command += ["--lora", str(adapter)] if adapter is not None else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise PtuneError(f"llama-server does not start with {model}")
            yield url if url.startswith("http") else f"http://{url}"
        finally:
            process.kill()


if __name__ == "__main__":
    main()
