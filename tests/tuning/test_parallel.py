"""The trials of a search across its fields: each value stands at its place, and the best is told apart."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.tuning.parallel import BOTTOM, HEIGHT, TOP, parallel

LOWEST, HIGHEST = HEIGHT - BOTTOM, TOP  # pixels from above


def trial(number: int, value: float | None, **params: Any) -> dict[str, Any]:
    fields = {name.replace("__", "."): one for name, one in params.items()}
    state = "finished" if value is not None else "pruned"
    return {
        "number": number, "state": state, "params": fields, "value": value, "last": 3.0 if value is None else value,
        "steps": 4, "seconds": 1.0, "why": "",
    }  # fmt: skip


def found(*trials: dict[str, Any], **space: str) -> dict[str, Any]:
    finished = [one for one in trials if one["value"] is not None]
    best = min(finished, key=lambda one: one["value"], default=None)
    return {
        "metric": "validation_loss", "direction": "minimize", "space": {name.replace("__", "."): one for name, one in space.items()},
        "best": None if best is None else {"trial": best["number"], "value": best["value"], "params": best["params"]},
        "trials": list(trials),
    }  # fmt: skip


def lines(html: str) -> list[tuple[str, list[tuple[float, float]], str]]:
    """Class, points and tooltip of each line, in the order in which they are drawn."""
    drawn = re.findall(
        r'<polyline class="(\w+)" style="opacity:[\d.]+" points="([^"]*)"><title>([^<]*)<', html
    )
    return [
        (style, [(float(x), float(y)) for x, y in (point.split(",") for point in points.split())], tip)
        for style, points, tip in drawn
    ]


def test_values_stand_at_their_places_and_the_best_is_on_top() -> None:
    html = parallel(
        found(
            trial(0, 2.0, train__lr=1e-5, method__r=4),
            trial(1, 1.0, train__lr=1e-4, method__r=16),
            trial(2, None, train__lr=1e-3, method__r=8),
            train__lr="log:1e-05..0.001",
            method__r="4|8|16",
        )
    )
    drawn = lines(html)
    assert [style for style, _, _ in drawn] == ["pruned", "done", "kept"]
    by_number = {int(re.findall(r"trial (\d)", tip)[0]): points for _, points, tip in drawn}
    middle = (LOWEST + HIGHEST) / 2
    assert [y for _, y in by_number[0]][:2] == pytest.approx([LOWEST, LOWEST], abs=0.1)
    assert [y for _, y in by_number[1]][:2] == pytest.approx([middle, HIGHEST], abs=0.1), "log scale"
    assert [y for _, y in by_number[2]][:2] == pytest.approx([HIGHEST, middle], abs=0.1)
    assert by_number[1][2][1] > by_number[0][2][1] > by_number[2][2][1], "a lower loss stands lower"
    assert [x for x, _ in by_number[0]] == [x for x, _ in by_number[1]]
    for text in (
        "train.lr",
        "method.r",
        "validation loss",
        "lower is better",
        ">16</text>",
        "trial 1, finished: 1.0000",
    ):
        assert text in html


def test_what_has_no_validation_yet_is_not_drawn() -> None:
    running = {**trial(0, None, train__lr=1e-4), "state": "unfinished", "last": None}
    assert parallel(found(running, train__lr="log:1e-05..0.001")) == ""
    asked = {**trial(1, None), "state": "unfinished"}  # its values are not chosen yet
    assert parallel(found(asked, train__lr="log:1e-05..0.001")) == ""


@given(
    st.lists(
        st.tuples(
            st.floats(1e-5, 1e-1), st.sampled_from(["a", "<b>", "none"]), st.integers(1, 9), st.floats(0, 1e9)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_lines_stay_inside_the_picture_and_names_are_text(rows: list[tuple[float, str, int, float]]) -> None:
    trials = [
        trial(at, value, train__lr=lr, backbone__quantize=word, train__epochs=epochs)
        for at, (lr, word, epochs, value) in enumerate(rows)
    ]
    html = parallel(
        found(*trials, train__lr="log:1e-05..0.1", backbone__quantize="a|<b>|none", train__epochs="1..9")
    )
    drawn = lines(html)
    assert len(drawn) == len(rows)
    assert [style for style, _, _ in drawn].count("kept") == 1
    width = float(re.findall(r'viewBox="0 0 (\d+)', html)[0])
    assert all(0 <= x <= width and TOP - 1 <= y <= HEIGHT for _, points, _ in drawn for x, y in points)
    assert "<b>" not in html
