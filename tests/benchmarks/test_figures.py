"""Each measured figure of README, docs and recipes has a field of results/*.json, and each file says how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.figures import INTERVAL, MARKED, NUMBER, PAGES, ROOT, TABLE, field, number, restated
from benchmarks.sides import RESULTS
from benchmarks.tasks import of_the_recipe

FILES = sorted(RESULTS.glob("*.json"))
UNRECORDED = {"soak.json": {"machine", "versions"}}  # made before files said all
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def rows(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects in a file, with their paths."""
    if isinstance(value, dict):
        yield path, value
        for key, part in value.items():
            yield from rows(part, f"{path}/{key}")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_result_says_how_it_was_made(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    assert re.fullmatch(r"(python -m benchmarks\.\w+|scripts/\w+)( .*)?", found["command"])
    assert re.fullmatch(r"(by )?\d{4}-\d\d-\d\d", found["date"])
    unrecorded = UNRECORDED.get(file.name, set())
    for part in ("machine", "versions"):
        assert ("not recorded" in str(found[part])) == (part in unrecorded)
    if "versions" not in unrecorded:
        assert found["versions"]["ptune"]
    if "machine" not in unrecorded:
        assert found["machine"]["cpu"]
        assert found["machine"]["python"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_ratio_has_its_interval_and_its_pairs(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    for path, row in rows(found["rows"] if isinstance(found.get("rows"), dict) else {}):
        if "median" in row:
            assert row["low"] <= row["median"] <= row["high"], path
            assert row["pairs"] > 1, path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_figures_are_those_of_the_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert restated(text) == text, "python -m benchmarks.figures writes them anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_ratio_and_no_interval_is_without_its_source(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r"<!-- \w+/.*? -->", text)
    assert len(sources) == len(MARKED.findall(text)), "a source that does not follow a figure"
    rest = CODE.sub("", TABLE.sub("", MARKED.sub("", text.replace(sweep_table(), ""))))
    assert not re.findall(rf"{NUMBER}×|{NUMBER}(?: ?%)?(?:\*\*)? {INTERVAL}", rest)


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/recommendation.md"])
def test_no_share_in_a_table_is_without_its_source(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace(sweep_table(), "")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert not re.findall(rf"{NUMBER} ?%", MARKED.sub("", "\n".join(table)))


@pytest.mark.parametrize("file", ["train", "encode", "decode", "serve"])
def test_no_ratio_is_kept_back(file: str) -> None:
    found = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))["rows"]
    named = [name for name in found if "_vs_" in name and not name.endswith("int8_vs_fp32")]
    assert not [name for name in named if f"<!-- {file}/rows/{name} -->" not in BENCHMARKS]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_result_is_linked_from_the_benchmarks(file: Path) -> None:
    assert f"(../benchmarks/results/{file.name})" in BENCHMARKS


def test_the_front_page_has_no_figure_of_its_own() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    sources = [match["source"] for match in MARKED.finditer(front)]
    assert len(sources) > 8
    assert not [source for source in sources if f"<!-- {source} -->" not in BENCHMARKS]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*_*.py")), ids=lambda path: path.stem)
def test_what_a_recipe_reaches_is_in_the_benchmarks(recipe: Path) -> None:
    docstring = recipe.read_text(encoding="utf-8").split('"""')[1]
    result = re.search(r"^result.*?^\w", docstring, re.DOTALL | re.MULTILINE)
    measured = {match[0].rpartition(" <!--")[0].replace("**", "") for match in MARKED.finditer(BENCHMARKS)}
    told = re.finditer(rf"(?<![\d.])({NUMBER} %|\d*\.\d+)( {INTERVAL})?", result[0] if result else "")
    assert not [match[0] for match in told if match[0] not in measured]


def sweep_table() -> str:
    """The sweep's table, which its command prints whole."""
    return sweep.table(json.loads((RESULTS / "sweep.json").read_text(encoding="utf-8"))["rows"])


def test_the_sweeps_table_is_that_of_its_file() -> None:
    assert sweep_table() in BENCHMARKS


def test_rows_of_tasks_were_trained_with_the_settings_of_their_recipes() -> None:
    found = json.loads((RESULTS / "tasks.json").read_text(encoding="utf-8"))["rows"]
    assert not [name for name, row in found.items() if not of_the_recipe(name, row)]


@pytest.mark.parametrize(
    ("value", "like", "shown"),
    [
        (1.9241, "0.00", "1.92"),
        (0.0050123, ".0001", ".0050"),
        (215205, "1", "215,205"),
        (5.334e-7, "1.1e-9", "5.3e-7"),
        (0, "1e-5", "0"),
        (0.0000066, "0", "7e-6"),
    ],
)  # fmt: skip
def test_a_number_is_written_like_another(value: float, like: str, shown: str) -> None:
    assert number(value, like) == shown


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match=r"results/train\.json has no rows/nothing"):
        field("train/rows/nothing")


def test_a_changed_figure_is_written_anew() -> None:
    row = field("train/rows/tokens_per_s_vs_trl_fp32")
    wrong = "9.99× [8.88, 9.99] <!-- train/rows/tokens_per_s_vs_trl_fp32 -->"
    assert restated(wrong).startswith(f"{row['median']:.2f}× [{row['low']:.2f}, {row['high']:.2f}] <!--")
