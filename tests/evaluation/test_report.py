"""The report is one whole HTML file that needs nothing else."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.page_outline import Outline

from ptune.config.recipe import Recipe
from ptune.evaluation.curve import HEIGHT, WIDTH, Series, averaged, chart, ticks
from ptune.evaluation.report import losses, report
from ptune.formats.run import Run

NASTY = "<script>alert('&')</script>"
EVALUATION = {
    "split": "test",
    "examples": 3,
    "before": {"loss": 4.5, "perplexity": 90.0, "token_accuracy": 0.25, "targets": 12},
    "in_context": {"loss": 4.25, "perplexity": 70.1, "token_accuracy": 0.26, "targets": 12, "examples": 8},
    "after": {"loss": 3.75, "perplexity": 42.5, "token_accuracy": 0.31, "targets": 12},
    "answers": [{"prompt": NASTY, "expected": "a\nb", "base": NASTY, "adapter": "c"}],
}


@pytest.fixture(scope="module")
def page(trained: Run) -> str:
    samples = [
        {
            "step": step,
            "prompt": f"2 {NASTY}",
            "answer": f"{step} {NASTY}",
            "ended": step > 3,
            "expected": "four",
        }
        for step in range(1, 31)
    ]
    recipe = Recipe.load(trained.recipe_path)
    return report(trained.record(), recipe, EVALUATION, trained.metrics(), samples)


def test_is_well_formed_and_whole(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert outline.seen.count("svg") == 2
    assert not {"script", "img"} & {*outline.seen}
    assert not re.search(r"url\(|@import|https?:", page)
    assert "prefers-color-scheme: dark" in page


def test_text_of_others_is_text(page: str) -> None:
    assert Outline(page).text.count(NASTY) == 2 + 13  # prompt and base; a sampled prompt and twelve answers
    assert "tiny <run>" in Outline(page).text


def test_shows_the_figures_and_marks_the_best(page: str) -> None:
    for text in ("4.500", "4.250", "3.750", "25.0%", "31.0%", "8 examples in context"):
        assert text in page
    assert re.findall(r'better">([^<]+)<', page) == ["3.750", "42.5", "31.0%"]


def test_shows_what_was_answered_while_it_trained(page: str) -> None:
    steps = [int(step) for step in re.findall(r"<th class=number>step (\d+)</th>", page)]
    assert (len(steps), steps[0], steps[-1]) == (12, 30, 1)
    assert steps == sorted(steps, reverse=True)
    assert "in the data</th><td>four</td>" in page
    assert page.count("(cut)") == 1, "the answer after step 1 alone did not end"


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_points_stay_inside_the_picture(points: list[tuple[float, float]]) -> None:
    drawn = re.search(
        r'<polyline class="first" points="([^"]*)"', chart("a", "b", [Series("c", "first", points)])
    )
    assert drawn is not None
    for pair in drawn[1].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_few_even_and_enclose(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    assert 2 <= len(found) <= count + 2
    slack = 1e-6 * max(abs(low), span, 1.0)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    steps = [right - left for left, right in itertools.pairwise(found)]
    assert max(steps) - min(steps) <= slack


@pytest.mark.parametrize(("low", "high"), [(1, 3), (1, 1), (0, 1), (0.0, 1e-12), (5, 400)])
def test_ticks_of_counts_are_whole(low: float, high: float) -> None:
    found = ticks(low, high, 4, least=1.0)
    assert all(tick == int(tick) for tick in found)
    assert found[0] <= low
    assert high <= found[-1]


def steps_of(losses: list[float]) -> list[dict[str, float]]:
    return [{"step": float(step), "loss": loss} for step, loss in enumerate(losses, 1)]


def test_the_loss_has_an_average_over_its_faint_steps() -> None:
    random = np.random.default_rng(0)
    noisy = [4 - step / 100 + float(random.normal(0, 0.3)) for step in range(200)]
    faint, average, validation = losses(steps_of(noisy))
    assert [value for _, value in faint.points] == noisy
    assert [x for x, _ in average.points] == [x for x, _ in faint.points]
    assert validation.points == []
    trend = np.array([4 - step / 100 for step in range(200)])
    off = np.abs(np.array([value for _, value in average.points]) - trend)[20:]
    assert off.mean() < np.abs(np.array(noisy) - trend)[20:].mean() / 2
    page = chart("Loss", "step", [faint, average])
    assert page.index('<polyline class="first faint"') < page.index('<polyline class="first"')  # over it
    assert "exponential moving average, about 8 points, debiased" in page


def test_few_steps_have_no_average() -> None:
    assert [one.style for one in losses(steps_of([3.0, 2.0, 1.0]))] == ["first", "second"]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(1, 20))
def test_an_average_is_the_weighted_mean_so_far(values: list[float], over: int) -> None:
    found = [y for _, y in averaged(list(enumerate(values)), over)]
    for count in range(1, len(values) + 1):
        weights = (1 - 1 / over) ** np.arange(count)[::-1]
        assert found[count - 1] == pytest.approx(np.average(values[:count], weights=weights), abs=1e-6)


def test_nothing_is_drawn_of_nothing() -> None:
    assert chart("a", "b", [Series("c", "first", [])]) == ""
    assert "<polyline" in chart("a", "b", [Series("c", "first", [(3, 2.0)])])
