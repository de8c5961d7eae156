"""What a prefix that was computed before saves: python -m benchmarks.prefix_ttft --bundle B

One client and a server, over HTTP. Prompts of 2,000 tokens that nobody has sent yet, each followed by a question of 16 tokens:
the time to the first token, then the time for the same 2,000 tokens with another question. Pairs go A B B A: first asked (A),
asked again (B), asked again with a third question (B), the next prompt first asked (A). The ratio B / A is the median of
the pairs with a 95 % bootstrap interval; it must be .05 at most. Writes results/prefix_ttft.json.

    --pairs 2 --tokens 64 --dry-run     tries whether everything works
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random

import httpx

from benchmarks.adapter_traffic import served
from benchmarks.goals import Goal, host, judged, keep, shown
from benchmarks.sides import ratio

PACKAGES = ("ptune", "onnxruntime", "uvicorn", "fastapi")
GOAL = Goal(0.05, 0.05, more=False)
QUESTION = 16  # tokens


def first_token_s(http: httpx.Client, prompt: list[int]) -> float:
    """From sending a prompt to the event that brings its first token."""
    body = {"model": "base", "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
    body |= {"return_token_ids": True}
    began_s = time.perf_counter()
    with http.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"the server answered {response.status_code}: {response.read().decode()}")
        for line in response.iter_lines():
            if line.startswith("data: {") and any(
                choice.get("token_ids") for choice in json.loads(line[6:])["choices"]
            ):
                return time.perf_counter() - began_s
    raise SystemExit("a stream ended without a token")


def pairs_of(
    http: httpx.Client, pairs: int, tokens: int, vocabulary: int, seed: int
) -> tuple[list[float], list[float]]:
    """Seconds of first and of repeated prompts, pair by pair, A B B A."""
    chance = Random(seed)

    def some(count: int) -> list[int]:
        return [chance.randrange(vocabulary // 2, vocabulary) for _ in range(count)]

    first, again = [], []
    for number in range(pairs):
        if number % 2 == 0:
            prefix = some(tokens)
            first.append(first_token_s(http, prefix + some(QUESTION)))
            again.append(first_token_s(http, prefix + some(QUESTION)))
        else:
            again.append(first_token_s(http, prefix + some(QUESTION)))
            prefix = some(tokens)
            first.append(first_token_s(http, prefix + some(QUESTION)))
    return first, again


def main() -> int:
    """Prints a row and writes prefix_ttft.json; 1 where the goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--profile", default=None, help="default: the bundle's own choice")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--tokens", type=int, default=2000)
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    from ptune.formats.bundle import Bundle

    vocabulary = Bundle.open(chosen.bundle).decoder.vocab_size
    profile = [] if chosen.profile is None else ["--profile", chosen.profile]
    with (
        served(chosen.bundle, chosen.threads, "--max-rows", "4", *profile) as (url, _),
        httpx.Client(base_url=url, timeout=300) as http,
    ):
        pairs_of(http, 2, chosen.tokens, vocabulary, seed=1)  # warm-up, with prompts of its own
        first, again = pairs_of(http, chosen.pairs, chosen.tokens, vocabulary, seed=0)
    row = judged(ratio(again, first), GOAL, tokens=chosen.tokens, question_tokens=QUESTION)
    print(shown("prefix_ttft", row))
    document = {
        "command": "python -m benchmarks.prefix_ttft --bundle B",
        "profile": chosen.profile,
        "threads": chosen.threads,
        "rows": {"prefix_ttft": row},
        "passes": {"first_s": first, "again_s": again},
        "host": host(),
    }
    if not chosen.dry_run:
        keep("prefix_ttft", document, PACKAGES)
    return 0 if row["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
