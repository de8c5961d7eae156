"""A new user's way in a real browser, without typing a command: a trained run is judged, exported, served and answers.

The studio is killed while the export runs, and started anew: nothing is lost.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browsing import ARGUMENTS, CHROMIUM, FITS, GIVE_UP_MS, NEEDS_BROWSER
from support.chat_run import trained
from support.fake_chat_model import wait_until
from support.studio_process import StudioProcess, studio_on
from support.tiny_models import build

from ptune.formats.bundle import Bundle
from ptune.studio.binomial import interval
from ptune.studio.jobs import Jobs
from ptune.studio.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]
PICTURES = os.environ.get("PTUNE_STUDIO_PICTURES")
"""A folder for screenshots of each tab; default: none are taken."""
SHOTS = {"1280": (1280, "light"), "420": (420, "light"), "dark": (1280, "dark"), "420-dark": (420, "dark")}


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioProcess]:
    build(tmp_path / "model", "llama")
    (tmp_path / "runs").mkdir()
    shutil.move(trained(tmp_path).folder, tmp_path / "runs" / "mine")
    with studio_on(tmp_path) as started:
        yield started


@pytest.fixture
def page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        opened = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        opened.set_default_timeout(GIVE_UP_MS)
        yield opened
        browser.close()


def test_from_a_run_to_an_answer(studio: StudioProcess, page: Page) -> None:
    problems: list[str] = []
    elsewhere: list[str] = []

    def request_of(url: str) -> None:
        if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url):
            elsewhere.append(url)

    page.on("request", lambda request: request_of(request.url))
    page.on("console", lambda said: problems.append(said.text) if "Security Policy" in said.text else None)
    opens(page, studio, "Judge")
    judged(page, studio)
    picture(page, "judge")
    exported(page, studio)
    picture(page, "ship")
    answered(page)
    picture(page, "serve")
    stopped(page, studio)
    assert elsewhere == []
    assert problems == []


def opens(page: Page, studio: StudioProcess, tab: str) -> None:
    page.goto(studio.url)
    page.get_by_role("tab", name=tab, exact=True).click()


def judged(page: Page, studio: StudioProcess) -> None:
    """Evaluated, and voted on; a reload keeps the votes and the pair that is to be voted on."""
    page.locator("#judge-evaluate").click()
    figures = page.locator("#judge-figures")
    figures.get_by_text("loss a token").wait_for()
    evaluation = json.loads((studio.folder / "runs" / "mine" / "evaluation.json").read_text())
    assert f"{evaluation['after']['loss']:.3f}" in figures.inner_text()
    assert page.locator("#judge .command textarea").first.input_value() == "ptune evaluate runs/mine"
    answers = {(one["base"], one["adapter"]) for one in evaluation["answers"] if one["base"] != one["adapter"]}
    mine = 0
    for number, vote in enumerate(("left", "right", "left", "both", "neither"), 1):
        left, right = (page.locator(f"#blind-{side} p").inner_text() for side in ("left", "right"))
        prompt = page.locator("#blind-prompt").inner_text()
        assert "base" not in prompt, "nobody says whose the answers are"
        order = {one: at for at, one in enumerate(sides_of(studio, left, right))}
        mine += order.get("mine") == {"left": 0, "right": 1}.get(vote, 2)
        page.locator(f"#vote-{vote}").click()
        page.get_by_text(f"{number} of {len(answers)} voted on").wait_for()
    shown = page.locator("#blind-left p").inner_text()
    opens(page, studio, "Judge")
    page.get_by_text(f"5 of {len(answers)} voted on").wait_for()
    assert page.locator("#blind-left p").inner_text() == shown
    page.locator("#blind-result button").click()
    low, high = interval(mine, 3)
    page.get_by_text(f"mine wins {mine / 3:.0%} [{low:.0%}, {high:.0%}]").wait_for()
    page.locator("#judge-report button").click()
    report = page.frame_locator("iframe.report")
    report.get_by_role("heading", name="Before and after").wait_for()


def sides_of(studio: StudioProcess, left: str, right: str) -> tuple[str, str]:
    """Whose answers these are, by the evaluation itself. The browser may draw white space otherwise than it is written."""
    evaluation = json.loads((studio.folder / "runs" / "mine" / "evaluation.json").read_text())
    for one in evaluation["answers"]:
        pair = plain(one["base"]), plain(one["adapter"])
        if pair == (plain(left), plain(right)):
            return "base", "mine"
        if pair == (plain(right), plain(left)):
            return "mine", "base"
    raise AssertionError(f"no such answers: {left!r} and {right!r}")


def plain(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f]+", "", text) or "(nothing)"


def exported(page: Page, studio: StudioProcess) -> None:
    """The table fills in; the studio dies meanwhile, and another shows the same export, its hops and its end."""
    page.get_by_role("tab", name="Ship", exact=True).click()
    page.locator("#ship-export").click()
    rows = page.locator("#ship-proof tbody tr")
    rows.first.wait_for()
    early = rows.count()
    studio.kill()
    studio.again()
    opens(page, studio, "Ship")
    page.locator("#ship-state .good").wait_for()
    bundle = Bundle.open(studio.folder / "bundles" / "mine")
    hops = [*bundle.manifest.hops, *bundle.adapter("mine").hops]
    assert rows.count() == len(hops) > early
    for hop in hops:
        assert hop.name in page.locator("#ship-proof").inner_text()
    [job] = [job for job in Jobs(Workspace(studio.folder)).all() if job.kind == "export"]
    assert (job.state, job.returncode) == ("done", 0)
    assert page.locator("#ship .command textarea").first.input_value().startswith("ptune export runs/mine --out")
    assert "fp32" in page.locator("#ship-sizes").inner_text()
    page.locator("#ship-measure").click()
    page.locator("#ship-sizes").get_by_text("tokens/s").wait_for()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Adapter in PEFT's format").click()
    with zipfile.ZipFile(downloading.value.path()) as archive:
        weights = archive.read("mine-adapter/adapter_model.safetensors")
    assert weights == (studio.folder / "runs" / "mine" / "adapter" / "adapter_model.safetensors").read_bytes()


def answered(page: Page) -> None:
    """Served beside the queue, asked on the page, counted by the server; its own chat page answers, too."""
    page.locator("#serve-start").click()
    page.locator("#serve-told .good").wait_for()
    page.get_by_role("tab", name="Serve", exact=True).click()
    row = page.locator("#serve-models tbody tr").filter(has_text="mine@")
    row.wait_for()
    page.locator("#ask-text textarea").fill("Define: Patience")
    page.locator("#ask-do").click()
    page.locator("#ask-answer .answer").wait_for()
    wait_until(lambda: row.locator("td").nth(1).inner_text() == "1")
    with page.context.expect_page() as opening:
        page.get_by_role("link", name="its chat page").click()
    chat = opening.value
    chat.locator(".box textarea:visible").fill("Define: Mercy")
    chat.locator(".box textarea:visible").press("Enter")
    wait_until(lambda: row.locator("td").nth(1).inner_text() == "2")
    chat.close()


def stopped(page: Page, studio: StudioProcess) -> None:
    page.locator("#serve-stop").click()
    page.get_by_text("No server runs here").wait_for()
    [job] = [job for job in Jobs(Workspace(studio.folder)).all() if job.kind == "serve"]
    assert job.state == "stopped"


def picture(page: Page, name: str) -> None:
    """The tab fits every width; with `PTUNE_STUDIO_PICTURES`, screenshots of it."""
    for label, (width, scheme) in SHOTS.items():
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(FITS)
        if PICTURES is not None:
            page.screenshot(path=Path(PICTURES) / f"studio-{name}-{label}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})
