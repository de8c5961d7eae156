"""The figures of choosing.json: means over seeds, paired with Lora row by row, and each recipe as its method is meant."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.choosing import summary, table
from benchmarks.choosing_runs import CHOICES, SETS, recipe_of
from ptune.methods.full import Full
from ptune.methods.lora import Lora


def line(of: str, method: str, *seeds: dict[str, Any]) -> dict[str, Any]:
    facts = {"lr": 1e-3, "swept": {}, "parameters": 7, "planned_bytes": 2_000_000_000, "tokens": 9}
    return {
        "set": of,
        "method": method,
        **facts,
        "seeds": [{"seed": 0, "cpu_s": 8.0, **one} for one in seeds],
    }


CHAT = [
    line("chat", "base", {"losses": [(9.0, 3), (2.0, 1)], "other": [(4.0, 2), (1.0, 2)]}),
    line("chat", "Lora", {"losses": [(6.0, 3), (2.0, 1)], "other": [(4.0, 2), (2.0, 2)]}),
    line(
        "chat",
        "Full",
        {"losses": [(7.0, 3), (3.0, 1)], "other": [(5.0, 2), (3.0, 2)]},
        {"losses": [(8.0, 3), (2.0, 1)], "other": [(6.0, 2), (3.0, 2)]},
    ),
    line("sentiment", "Lora", {"losses": [(0.5, 1), (0.7, 1)], "right": [1, 0]}),
]


def test_figures_are_means_over_seeds_and_targets() -> None:
    rows = summary(CHAT)
    full = rows["chat"]["Full"]
    assert full["loss"]["value"] == pytest.approx((7.5 + 2.5) / 4)
    assert full["loss_of_each_seed"] == [2.5, 2.5]
    assert full["loss_less_loras"]["value"] == pytest.approx((1.5 + 0.5) / 4)
    assert full["loss_less_loras"]["low"] == pytest.approx(0.5)  # both rows are half a unit a target worse
    assert full["forgotten"]["value"] == pytest.approx((5.5 - 4 + 3 - 1) / 4)
    assert rows["sentiment"]["Lora"]["accuracy"]["value"] == 0.5
    assert rows["sentiment"]["Lora"]["loss"]["value"] == pytest.approx(0.6)


def test_the_table_has_the_best_first() -> None:
    told = table(summary(CHAT))
    rows = [row.split(" | ") for row in told.splitlines() if row.startswith(("| Lora", "| Full"))]
    assert [row[0] for row in rows] == ["| Lora", "| Full", "| Lora"]
    assert rows[1][1].startswith("2.500 [")
    assert rows[1][4:] == ["7", "2.00", f"{8 / SETS['chat'].steps:.2f}", "0.001 |"]
    assert rows[0][2] == ""


@pytest.mark.parametrize("of", sorted(SETS))
def test_a_recipe_trains_what_its_row_says(of: str) -> None:
    for name, choice in CHOICES.items():
        if of in choice.lr:
            recipe = recipe_of(of, name, 1e-3, 1)
            assert type(recipe.method).__name__ == choice.method["kind"]
            assert (recipe.train.seed, recipe.train.lr, recipe.train.max_steps) == (1, 1e-3, SETS[of].steps)
    assert isinstance(recipe_of(of, "Full", 1e-3, 0).method, Full)
    assert recipe_of(of, "LoRA+", 1e-3, 0).train.lora_plus_ratio == 16
    pissa = recipe_of(of, "PiSSA", 1e-3, 0).method
    assert isinstance(pissa, Lora)
    assert pissa.init == "pissa"
