"""llama-server in a process: python -m benchmarks.llama_server MODEL.gguf --slots 16 [--lora A.gguf B.gguf …]

The one inside the xllamacpp wheel, with its own defaults but for slots, context and threads. Prints its URL once it answers
and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CONTEXT = 2048  # of each slot


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lora", type=Path, nargs="*", default=[])
    chosen = parser.parse_args()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(chosen.model)
    parameters.n_parallel = chosen.slots
    parameters.n_ctx = chosen.slots * CONTEXT
    parameters.cpuparams.n_threads = chosen.threads
    parameters.cpuparams_batch.n_threads = chosen.threads
    parameters.verbosity = -1
    parameters.ui = False
    if chosen.lora:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in chosen.lora]
        parameters.lora_init_without_apply = True  # each request names its own
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
