"""ptune.combine: several adapters into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptune.formats.run import Run

if TYPE_CHECKING:
    from ptune.publish.combine import Combined, How


def combine(
    adapters: Sequence[Run | str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] = (),
    how: How = "cat",
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
    evaluate: bool = True,
) -> Combined:
    """Combines LoRA adapters of one base into a PEFT folder at `out`, by peft's `add_weighted_adapter`.

    adapters: runs or PEFT folders. weights: default: equal ones whose sum is 1. how, density, rank: see `ptune combine --help`.
    evaluate: measure the base, each part and the result on the held-out data of parts that are runs.
    Raises: UsageError; AdapterError where a part is no plain LoRA of linear layers, or belongs to another base.
    """
    from ptune.publish.combine import Combination
    from ptune.publish.combine import combine as combined

    sources = [one.folder if isinstance(one, Run) else Path(one) for one in adapters]
    return combined(
        sources, Path(out), Combination(how, tuple(weights), density, rank, seed), evaluate=evaluate
    )
