"""Speed of prompt-lookup speculation: python -m benchmarks.speculation --bundle B      (about 3 minutes)

One bundle, opened twice: with speculation and without. One sequence at a time, the same answers checked token by token. Two
kinds of work: `editing` asks for a text that stands in the prompt (what a model does that rewrites, quotes or fills in),
greedy; `open` for something new, at temperature 1, as a small model that is greedy soon repeats itself. Writes
results/speculation.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.goals import Goal, Row, judged, keep, shown
from benchmarks.sides import Measured, alternate, ratio

PACKAGES = ("ptune", "onnxruntime", "numpy")
GOALS = {"editing": Goal(2.5, 3.0), "open": Goal(0.97, 1.0)}
TOKENS = 96
TEXT = (
    "The parcel came on Tuesday, but the lamp inside was broken and the manual was missing. I wrote to the shop the same "
    "evening and asked for another one. They answered within a day, apologised, and sent a new lamp without a charge. "
    "It stands on my desk now, the light is warm, and I would buy it again."
)
PROMPTS = {
    # a text that begins again after having been said twice: a pretrained model goes on with it, as an editor would
    "editing": f"Text:\n{TEXT}\n\nThe same text, copied:\n{TEXT}\n\nThe same text, copied:\n{TEXT[:60]}",
    "open": "Once upon a time, in a small town by the sea, there lived a clockmaker who",
}


def side(bundle: Path, profile: str | None, threads: int, drafts: int) -> Iterator[Measured]:
    """An engine; each `next` answers both prompts."""
    from ptune.codecs.chat import ChatCodec
    from ptune.engine.decoder.engine import Engine
    from ptune.engine.decoder.request import Request
    from ptune.engine.sampling import Sampling

    engine = Engine.open(bundle, profile=profile, threads=threads, num_speculative_tokens=drafts)
    codec = ChatCodec.open(Path(bundle) / "codec")
    while True:
        found: Measured = {}
        for name, text in PROMPTS.items():
            prompt = tuple(codec.encode_text(text))
            arrived: list[float] = []
            tokens = []
            before = engine.stats().steps
            sampling = Sampling(temperature=float(name == "open"), seed=1)
            for token in engine.generate(Request(prompt, sampling=sampling, max_tokens=TOKENS)):
                arrived.append(time.perf_counter())
                tokens.append(token.id)
            found[name] = {
                "seconds": arrived[-1] - arrived[0],
                "tokens": tokens,
                "steps": engine.stats().steps - before,
            }
        yield found


def main() -> int:
    """Prints a table and writes speculation.json; 1 where a goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--profile", default=None, help="default: the bundle's own choice")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--pairs", type=int, default=15)
    chosen = options.parse_args()
    sides = {
        name: partial(side, chosen.bundle, chosen.profile, chosen.threads, drafts)
        for name, drafts in (("guessing", 16), ("plain", 0))
    }
    found = alternate(sides, chosen.pairs, threads=chosen.threads)
    rows: dict[str, Row] = {}
    for name, goal in GOALS.items():
        guessing, plain = ([one[name] for one in found[which]] for which in ("guessing", "plain"))
        if any(one["tokens"] != other["tokens"] for one, other in zip(guessing, plain, strict=True)):
            print(f"{name}: the answers differ", file=sys.stderr)
            return 1
        value = ratio([one["seconds"] for one in plain], [one["seconds"] for one in guessing])
        steps = {"steps": guessing[0]["steps"], "steps_plain": plain[0]["steps"]}
        rows[name] = judged(value, goal, tokens=TOKENS, **steps)
        print(shown(name, rows[name], f"{steps['steps']} steps for {steps['steps_plain']}, the same tokens"))
    passes = {
        name: [{kind: one[kind]["seconds"] for kind in GOALS} for one in each] for name, each in found.items()
    }
    document = {
        "command": "python -m benchmarks.speculation --bundle B",
        "profile": chosen.profile,
        "threads": chosen.threads,
        "rows": rows,
        "passes": passes,
    }
    keep("speculation", document, PACKAGES)
    return 0 if all(row["met"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
