"""The table of methods and models: every method is in it, most work, and a cell that does not says why."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.methods import table
from benchmarks.sides import RESULTS
from ptune.methods import METHODS

ROWS: dict[str, dict[str, dict[str, dict[str, Any]]]] = json.loads(
    (RESULTS / "methods.json").read_text(encoding="utf-8")
)["rows"]
OWN = sorted({kind.__name__ for kind in METHODS} & ROWS.keys())


def test_every_method_is_there() -> None:
    assert sorted(kind.__name__ for kind in METHODS) == OWN
    assert all(len(families) == 8 for families in ROWS.values())


def test_most_methods_work_on_most_models() -> None:
    many = [name for name in OWN if sum(bases["none"]["works"] for bases in ROWS[name].values()) >= 6]
    assert len(many) >= 25
    four_bits = [
        name for name in OWN if all(ROWS[name][one]["nf4"]["works"] for one in ("llama", "qwen3", "gemma3"))
    ]
    assert len(four_bits) >= 15


def test_a_cell_works_or_says_why() -> None:
    for families in ROWS.values():
        for bases in families.values():
            for found in bases.values():
                assert found["works"] != bool(found.get("why"))
                assert "reload" in found or not found["works"]


def test_a_row_is_written_with_marks_and_its_largest_differences() -> None:
    works = {"works": True, "served": "folded", "reload": 0.0, "difference": 2.4e-6}
    red = {"works": False, "why": "the model has no biases"}
    both = {"none": works, "int8": works, "nf4": {"works": False, "why": "it reads the weights"}}
    rows = {
        "Some": {
            **{name: {"none": works} for name in ("gpt2", "bert", "t5", "vit", "resnet")},
            **dict.fromkeys(("llama", "qwen3", "gemma3"), both),
        }
    }
    rows["Some"]["vit"] = {"none": red}
    lines = table(rows).splitlines()
    assert lines[2] == "| `Some` | F 8 – (1) | F 8 – (1) | F 8 – (1) | F | F | F | – (2) | F | 0 | 2e-6 |"
    assert lines[-2:] == ["1. it reads the weights", "2. the model has no biases"]
