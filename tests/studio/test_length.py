"""About how long each preset trains on the rows that were chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ptune.begin.presets import Preset
from ptune.data.readers.row_count import rows_of
from ptune.studio.recipe.drafts import Draft
from ptune.studio.recipe.length import label

CHAT = Draft("mine", ("faq.jsonl",), "chat")


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("quick", "Here about 20 steps, 3 passes over 54 rows"),  # 20 x 8 / 54
        ("balanced", "Here about 50 steps, 7.4 passes over 54 rows"),
        ("best", "Here up to 150 steps, 22 passes over 54 rows"),
    ],
)
def test_the_steps_of_sixty_rows(preset: Preset, told: str) -> None:
    """A tenth is held out, and the shipped recipe takes 8 at a time: one pass would be 7 steps, which teach hardly anything."""
    assert told in label(preset, replace(CHAT, preset=preset).preset_recipe(), 60)


def test_very_few_rows_are_passed_over_often() -> None:
    labels = Draft("mine", ("moods.csv",), "classify", {"text": "message", "label": "mood"})
    assert "up to 200 steps, 356 passes over 9 rows" in label("balanced", labels.preset_recipe(), 10)


def test_quick_takes_few_of_many_rows() -> None:
    quick = replace(CHAT, preset="quick").preset_recipe()
    assert "over 200 rows" in label("quick", quick, 100_000)  # what is held out is beside these
    assert label("quick", quick, None) == label("quick", None, 60)


def test_rows_are_counted_where_that_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text("".join(json.dumps({"text": str(at)}) + "\n" for at in range(7)))
    assert rows_of(tmp_path, ["faq.jsonl", "faq.jsonl"]) == 14
    path.write_text('{"text": "another"}\n')
    assert rows_of(tmp_path, ["faq.jsonl"]) == 1, "the file has changed"
    assert rows_of(tmp_path, ["missing.jsonl"]) is None
    assert rows_of(tmp_path, ["hub:owner/name"]) is None
    assert rows_of(tmp_path, ["."]) is None
