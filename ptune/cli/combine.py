"""ptune combine A B --out FOLDER"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell


def run(arguments: list[str]) -> int:
    return parse(combine, arguments, "combine")


def combine(
    adapters: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="A B…")],
    out: Path,
    weights: tuple[float, ...] = (),
    how: str = "cat",
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
    evaluate: bool = True,
) -> int:
    """Combines LoRA adapters of one base into one, a PEFT folder, and measures it on what each part's run held out.

    The same command gives the same bytes. The folder says what it was made of.

    Args:
        adapters: Runs, or PEFT folders.
        out: Where the combined adapter goes.
        weights: One for each adapter, of either sign; default: equal ones whose sum is 1.
        how: `cat` is the weighted sum itself, at the sum of the ranks; `svd` cuts it to `--rank`. `linear`, `ties`,
            `dare_linear`, `dare_ties` and `magnitude_prune` add up or prune the factors, as peft does; followed by `_svd`
            (`ties_svd`) they do so with the updates.
        density: Share of the numbers that ties, dare and magnitude_prune keep.
        rank: Of the ways with svd; default: the largest of the parts'.
        seed: Of the numbers that dare drops.
        evaluate: Measure the base, each part and the result on the held-out data of parts that are runs.
    """
    from rich.console import Console

    from ptune.evaluation.parts import table
    from ptune.publish.combine import Combination
    from ptune.publish.combine import combine as combine_adapters

    way = Combination(how, weights, density, rank, seed)  # type: ignore[arg-type]  # checked there
    found = combine_adapters(adapters, out, way, evaluate=evaluate)
    tell(adapter=out, rank=found.rank, off_the_weighted_sum=found.off, held_out=[*map(asdict, found.judged)])
    if found.judged:
        Console(highlight=False).print(table([*found.judged]))
    print(f"combined: rank {found.rank}; {found.off:.1%} off the weighted sum of the updates")
    print(f"adapter: {shown(out)}")
    say_next(f"ptune add bundles/NAME {shown(out)}")
    return 0
