"""The report of a classifier: one whole page without a script, whatever the labels are called."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.legible import faint
from support.page_outline import Outline

from ptune.codecs.labels import Labels
from ptune.data.held_out import Held
from ptune.data.images.labelled import ImageRef
from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.classification.evaluation import figures
from ptune.evaluation.classification.gallery import gallery
from ptune.evaluation.classification.outcome import Outcome
from ptune.evaluation.classification.report import report
from ptune.evaluation.require import parsed

NASTY = "<script>alert('&')</script> https://example.org/x"
CHROMIUM = shutil.which("chromium")
KINDS = ("text", "hundred", "tags", "multi", "regression", "images")


def outcome(kind: str, folder: Path) -> Outcome:
    """Made-up rows and predictions, some of them wrong."""
    chance, count = np.random.default_rng(0), 60
    names: tuple[str, ...] = ("bad", NASTY, "a label with a name of many words that never ends")
    if kind == "hundred":
        names = tuple(f"class {at} {'long ' * (at % 9)}" for at in range(100))
    if kind == "tags":
        labels = Labels(("O", "B-X", "I-X"), "tags")
        rows = [
            LabelledRow((NASTY, "word", "of", "x" * 90), tuple(chance.integers(0, 3, 4)), f"f, line {at}")
            for at in range(count)
        ]
        return Outcome.of_logits(labels, rows, list(chance.normal(0, 1, (count, 4, 3))))
    if kind == "regression":
        rows = [LabelledRow((NASTY, "other"), float(at), f"f, line {at}") for at in range(count)]
        return Outcome.of_logits(
            Labels(("value",), "regression"), rows, [np.array([at + 1.5]) for at in range(count)]
        )
    inputs: list[Any] = [f"{NASTY} {at} {'long' * at}" for at in range(count)]
    if kind == "images":
        Image.new("RGB", (30, 20), "red").save(folder / "red.png")
        inputs = [ImageRef(folder / "red.png")] * (count - 1) + [ImageRef(folder / "gone.png")]
    problem = "multi" if kind == "multi" else "single"
    marks = [int(mark) for mark in chance.integers(0, len(names), count)]
    rows = [
        LabelledRow(
            given,
            (mark,) if kind == "multi" else mark,
            f"{NASTY}, line {at}",
            {"where": "<b>" if at % 2 else None},
        )
        for at, (given, mark) in enumerate(zip(inputs, marks, strict=True))
    ]
    logits = chance.normal(0, 1, (count, len(names)))
    logits[np.arange(count), marks] += 1.0
    logits[-1] = np.eye(len(names))[(marks[-1] + 1) % len(names)] * 50  # the worst error is the last row
    return Outcome.of_logits(Labels(names, problem), rows, list(logits))  # type: ignore[arg-type]


def page_of(kind: str, folder: Path) -> str:
    made = outcome(kind, folder)
    held = Held(
        "text-classification", made.labels, "test", made.rows, [{"path": NASTY, "sha256": "ab"}], made.rows
    )
    found = figures(
        held, {"torch": made, "ONNX": made}, parsed(["mae<=1" if kind == "regression" else NAMED[kind]]), 0
    )
    return report(NASTY, NASTY, found, training="", mistakes=gallery(made), origin="")


NAMED = {
    "text": "accuracy>=0.99",
    "hundred": "accuracy>=0.99",
    "images": "f1_macro>=0",
    "tags": "f1>=0.99",
    "multi": "f1_micro>=0.99",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    return {kind: page_of(kind, folder) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_is_well_formed_and_whole(pages: dict[str, str], kind: str) -> None:
    outline = Outline(pages[kind])
    assert outline.open == []
    assert "script" not in outline.seen
    assert not re.search(r"url\(|@import", pages[kind])
    assert "prefers-color-scheme: dark" in pages[kind]
    assert NASTY in outline.text  # and so it is text, not markup
    assert "torch and ONNX" in outline.text
    assert len(pages[kind]) < 400_000


def test_shows_what_there_is(pages: dict[str, str]) -> None:
    for part in (
        "Confusion matrix",
        "By label",
        "Calibration",
        "Slices",
        "Worst errors",
        "commonest label",
        "MISSED",
    ):
        assert part in pages["text"], part
    assert "Commonest confusions" in pages["hundred"]
    assert "By type" in pages["tags"]
    assert "gold → predicted" in pages["tags"]
    assert "Confusion matrix" not in pages["regression"]
    assert "mean absolute error" in pages["regression"]
    assert "kept" in pages["images"]


def test_pictures_lie_in_the_page_and_one_that_is_gone_is_told(pages: dict[str, str]) -> None:
    outline = Outline(pages["images"])
    assert 1 <= outline.seen.count("img") <= 20
    assert "there is no image" in outline.text


def test_roc_and_precision_recall_where_there_are_two_labels() -> None:
    chance = np.random.default_rng(0)
    rows = [LabelledRow("x", int(mark), "f") for mark in chance.integers(0, 2, 40)]
    made = Outcome.of_logits(Labels(("no", "yes"), "single"), rows, list(chance.normal(0, 1, (40, 2))))
    held = Held("text-classification", made.labels, "test", rows, [])
    page = report("r", "", figures(held, {"torch": made}, [], 0), training="", mistakes="", origin="")
    assert "ROC of yes" in page
    assert "Precision and recall of yes" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")
@pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright")
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_browser_nothing_overflows_and_text_is_readable(
    pages: dict[str, str], browser: Any, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "report.html"
    place.write_text(pages[kind], encoding="utf-8")
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            page = browser.new_page(
                viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=True
            )
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(place.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert faint(page) == {}, (scheme, width)
            page.close()


"""The lowest contrast of any text with what is behind it, by the formula of WCAG 2."""
