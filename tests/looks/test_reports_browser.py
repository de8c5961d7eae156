"""Reports in a real browser: they fit a phone and a wide screen, can be read in light and dark, and are light on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browsing import FITS, NEEDS_BROWSER
from support.legible import faint, nameless, unseen
from support.studio_page import browser

from ptune.evaluation.classification.confusion import confusion
from ptune.evaluation.classification.report_style import STYLE
from ptune.evaluation.curve import Series, chart
from ptune.evaluation.style import page as report
from ptune.tuning import page as tuning
from ptune.tuning.plots import Dot, bars, scatter

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = NEEDS_BROWSER
STEPS = [(float(at), 4 - at / 10) for at in range(20)]
SERIES = [Series("training", "first", STEPS), Series("validation", "second", STEPS[::5], marks=True)]
HEADS = "".join(f"<th class=number>figure {at}</th>" for at in range(9))
CELLS = "".join(f"<td class=number>{at}.123 <small>[0.1, 0.2]</small></td>" for at in range(9))
TABLE = f"<div class=scroll tabindex=0 role=region aria-label=figures><table><tr><th></th>{HEADS}</tr><tr><th>a run</th>{CELLS}</tr></table></div>"
SIDES = (
    "<div class=sides><div><h3>Before</h3><p>an answer</p></div><div><h3>After</h3><p>another</p></div></div>"
)
PARTS = [
    "<h1>a-run-with-a-long-name-of-one-word-that-has-no-place-to-be-broken</h1>",
    "<p class=bad>This model is no better.</p><p class=dim>Said beside it.</p>",
    f"<h2>Figures</h2>{TABLE}{chart('Loss', 'step', SERIES)}<article><p>A prompt</p>{SIDES}</article>",
]
DOTS = [Dot(at / 10, 2.0, kind, "a trial") for at, kind in enumerate(("done", "kept", "pruned"), 1)]
FILES = {
    "report": report("A report", [*PARTS, confusion(["good", "bad"], [[9, 1], [2, 8]])], STYLE),
    "search": tuning.page(
        "A search", [scatter("lr", "lr", DOTS, log=True, line=STEPS[1:3]), bars({"lr": 0.7, "r": 0.3})]
    ),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as chromium:
        yield chromium.new_page()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_report_fits_and_can_be_read(name: str, dark: bool, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(FILES[name])
    page.emulate_media(media="screen", color_scheme="dark" if dark else "light")
    page.goto(path.as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    for width in (320, 420, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(FITS), f"{width} pixels"
        assert faint(page) == {}
    assert nameless(page) == []
    assert unseen(page, 3) == []
    lines = page.locator("figure svg polyline").first.evaluate("one => getComputedStyle(one).stroke")
    assert lines not in ("none", "rgb(0, 0, 0)")
    page.emulate_media(media="print", color_scheme="dark" if dark else "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert faint(page) == {}


def test_what_cannot_be_read_is_seen_by_the_test(page: Page) -> None:
    page.emulate_media(media="screen", color_scheme="light")
    page.set_content(
        "<body style='background:#fff'><p style='color:#999'>grey</p><p style='color:#000;opacity:.3'>faint</p><p>ink</p>"
        "<input><a href=x style='outline:none'>go</a><input placeholder=hint>"
    )
    assert [key.partition(": ")[2] for key in faint(page)][:2] == ["grey", "faint"]
    assert len(nameless(page)) == 2
    page.set_content("<style>:focus { outline: none }</style><a href=x>go</a>")
    assert len(unseen(page, 1)) == 1
