"""What answers of a form cost those that share their batches: tokens a second of free rows, beside constrained ones and not.

    python -m benchmarks.grammar bundles/NAME [--rows 8] [--tokens 64] [--rounds 8] [--threads N]

Both sides compute the same number of rows and tokens with the same prompts. In "free" none has a grammar, in "shared" every
second one writes JSON of a schema without end; what is compared are the free rows' times between two tokens.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sides import Measured, alternate, ratio, write
from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.request import Request, Token
from ptune.engine.onnx_graph import available_cores
from ptune.engine.sampling import Sampling
from ptune.tasks.chat.infer import load

ENDLESS = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
}


def main() -> None:
    """Prints the ratio and writes results/grammar.json."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("bundle", type=Path)
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--threads", type=int, default=available_cores())
    chosen = options.parse_args()
    sides = {
        name: functools.partial(side, chosen.bundle, chosen.rows, chosen.tokens, chosen.threads, name)
        for name in ("free", "shared")
    }
    found = alternate(sides, chosen.rounds, threads=chosen.threads)
    times = {name: [each["between_s"] for each in measured] for name, measured in found.items()}
    result = ratio(times["shared"], times["free"])
    print(f"time between two tokens of a free row, shared / free: {result}")
    document = {
        "rows": chosen.rows,
        "tokens": chosen.tokens,
        "between_s": times,
        "shared_over_free": vars(result),
    }
    print(write("grammar", document, ["llguidance", "onnxruntime"]))


def side(bundle: Path, rows: int, tokens: int, threads: int, name: str) -> Iterator[Measured]:
    """Median seconds between two tokens of the rows without a grammar."""
    model = load(bundle, threads=threads, max_rows=rows, replay_golden=False)
    grammar = model.grammar(StructuredOutput.json(ENDLESS))
    ends = dict.fromkeys(model.codec.eos_ids, -100.0)
    prompt = tuple(model.codec.encode_text("A list of people, their age and their kind:"))
    while True:
        heard: list[list[float]] = [[] for _ in range(rows)]
        left = threading.Semaphore(0)

        def deliver(row: int, token: Token, heard: list[list[float]] = heard) -> None:
            heard[row].append(time.perf_counter())
            if token.finish is not None:
                left.release()  # noqa: B023 (each round waits for its own)

        for row in range(rows):
            formed = name == "shared" and row % 2 == 1
            sampling = Sampling(seed=row, logit_bias={} if formed else ends)
            request = Request(
                prompt, sampling=sampling, max_tokens=tokens, grammar=grammar if formed else None
            )
            model.engine.submit(request, functools.partial(deliver, row))
        for _ in range(rows):
            left.acquire()
        between = [b - a for times in heard[::2] for a, b in itertools.pairwise(times)]
        yield {"between_s": statistics.median(between)}


if __name__ == "__main__":
    main()
