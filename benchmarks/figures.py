"""The measured figures of README and docs are those of results/*.json: python -m benchmarks.figures      (a second)

A figure stands before a comment, which a rendered page does not show, that says where it comes from:

    1.92× [1.86, 2.61] <!-- train/rows/tokens_per_s_vs_trl_default -->

is results/train.json, `rows`, `tokens_per_s_vs_trl_default`. It is written as it stands there: with as many decimals, as a
share or in %, with its interval or without. Fields with a + between them are added up. A whole table stands between
`<!-- table methods -->` and `<!-- end -->`. The command writes every figure anew,
so that a benchmark that ran again needs no editing; tests/benchmarks/test_figures.py wants that it has nothing to do.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.sides import RESULTS

TABLE = re.compile(r"<!-- table (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e-?\d+)?"
INTERVAL = rf"\[({NUMBER})(?: ?%)?, ({NUMBER})(?: ?%)?\]"
MARKED = re.compile(
    rf"(?<![\d.,])(?P<value>{NUMBER})(?P<unit>×| ?%)?(?P<bold>\*\*)?(?P<interval> {INTERVAL})? <!-- (?P<source>\S+/.*?) -->"
)


def restated(text: str) -> str:
    """A page with each marked figure and table as the files have it. Raises: KeyError for a source that is not there."""
    return TABLE.sub(_retold, MARKED.sub(_restated, text))


def _retold(match: re.Match[str]) -> str:
    """A whole table, written by the function `table` of the benchmark that it is named after."""
    name = match["name"]
    made: str = importlib.import_module(f"benchmarks.{name}").table(field(f"{name}/rows"))
    return f"<!-- table {name} -->\n{made}\n<!-- end -->"


def _restated(match: re.Match[str]) -> str:
    value, interval, source = match["value"], match["interval"], match["source"]
    measured = field(source)
    percent = 100 if "%" in (match["unit"] or "") else 1
    whole = measured if isinstance(measured, dict) else {"value": measured}
    shown = number(percent * whole["median" if "median" in whole else "value"], value)
    shown += f"{match['unit'] or ''}{match['bold'] or ''}"
    if interval:
        ends = re.fullmatch(f" {INTERVAL}", interval)
        assert ends is not None  # the same pattern
        low, high = (
            number(percent * whole[end], like)
            for end, like in zip(("low", "high"), ends.groups(), strict=True)
        )
        shown += f" [{low}, {high}]"
    return f"{shown} <!-- {source} -->"


def field(source: str) -> Any:
    """What FILE/KEY/KEY names: a number, a sum of them, or a row with its interval. Raises: KeyError."""
    file, *keys, last = re.split(r"(?<! )/(?! )", source)
    try:
        found = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
        parts = [found[key] for key in re.split(r"(?<! )\+(?! )", last)]
    except (FileNotFoundError, KeyError, TypeError):
        raise KeyError(f"results/{file}.json has no {'/'.join([*keys, last])}") from None
    return parts[0] if len(parts) == 1 else sum(parts)


def number(value: float, like: str) -> str:
    """With the decimals of another number, and its way to write thousands, fractions and powers of ten."""
    digits = len(like.partition("e")[0].partition(".")[2])
    shown = f"{value:,.{digits}f}"
    if value and ("e" in like or not float(shown.replace(",", ""))):
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return shown.removeprefix("0") if like.startswith(".") else shown


def main() -> int:
    """Writes the pages whose figures have changed, and says which."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        try:
            after = restated(before)
        except KeyError as error:
            raise SystemExit(f"{page.relative_to(ROOT)}: {error.args[0]}") from None
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: figures written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
