"""A newcomer's whole way in a real browser, without typing a command: data, a recipe, a training, figures and votes, an
export whose proof fills in, a server, and an answer through it. Of labelled texts, and of conversations.

The studio is killed while an export runs, and started anew: nothing is lost.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browsing import NEEDS_BROWSER
from support.classified import encoder, reviews
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened, photographed
from support.tiny_models import build, conversations, write_jsonl

from ptune.evaluation.binomial import interval
from ptune.formats.bundle import Bundle
from ptune.studio.jobs.queue import Jobs
from ptune.studio.workspace import Workspace

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]
VOTES = ("left", "right", "both", "neither")
BUTTONS = {
    "left": "Left is better",
    "right": "Right is better",
    "both": "Both are good",
    "neither": "Neither is",
}


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Opened]:
    folder = tmp_path / "studio"
    encoder(folder / "models" / "bert")
    build(folder / "models" / "llama", "llama")
    with browser() as chromium, opened(folder, chromium) as page:
        try:
            yield page
        finally:
            jobs = Jobs(Workspace(folder))
            for job in jobs.all():
                jobs.stop(job.id)
            wait_until(lambda: all(job.state not in ("waiting", "running") for job in jobs.all()))


def test_from_labelled_texts_to_an_answer(studio: Opened, tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["message", "mood"])
        writer.writeheader()
        writer.writerows({"message": row["text"], "mood": row["label"]} for row in reviews(120))
    trained(studio, path, "tweets", "classify", "models/bert")
    evaluated(studio, "tweets", "accuracy")
    figures = studio.text("judge-figures")
    assert "Slices" in figures
    assert "rows are wrong" in figures or "is right on all" in figures
    assert "your model (torch)" in figures
    assert not studio.page.locator("#blind").is_visible(), "labels are not voted on"
    photographed(studio, "judge-labels")
    assert "The export will refuse it" in figures
    studio.press("Export it")
    refused(studio, "no better than")
    exported(studio, "tweets")
    studio.press("Serve it")
    studio.says("serve-models", "tweets@")
    wait_until(lambda: studio.box("ask-model").input_value() == "tweets")
    studio.page.get_by_role("link", name="Open the page").and_(studio.page.locator(":visible")).wait_for()
    studio.box("ask-text").fill("this was a wonderful film")
    studio.press("Ask")
    labels = {row["label"] for row in reviews(120)}
    wait_until(lambda: studio.page.locator("#ask-answer .answer").count() == 1)
    assert all(re.search(rf"{label}\s+[\d.]+%", studio.text("ask-answer")) for label in labels)
    stopped(studio)


def test_from_conversations_to_an_answer_through_a_kill(studio: Opened, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    write_jsonl(path, conversations(200))
    trained(studio, path, "talk", "chat", "models/llama")
    evaluated(studio, "talk", "loss a token", answers="20")
    voted(studio)
    photographed(studio, "judge")
    reported(studio)
    exported(studio, "talk", killed=True)
    photographed(studio, "ship")
    measured(studio)
    downloaded(studio)
    served(studio, "talk")
    answered(studio)
    photographed(studio, "serve")
    stopped(studio)


def trained(studio: Opened, data: Path, name: str, task: str, model: str) -> None:
    studio.open("Data")
    studio.drop(data)
    studio.says("look", f"likely for {task}")
    studio.press("Make a recipe")
    wait_until(lambda: studio.box("name").input_value() == name)
    studio.choose("model", model)
    studio.page.get_by_label("quick:").check()
    studio.says("diff", "preset quick")
    studio.press("Train it")
    studio.says("facts", "finished")
    studio.press("Judge it")
    wait_until(lambda: studio.box("judge-run").input_value() == name)


def evaluated(studio: Opened, name: str, figure: str, answers: str = "") -> None:
    """By the job's own figures, to the last digit that is shown."""
    studio.go("Judge")
    wait_until(lambda: studio.box("judge-run").input_value() == name)
    if answers:
        studio.page.locator("#judge-answers input").click()
        studio.page.get_by_role("option", name=answers, exact=True).click()
    studio.press("Evaluate")
    studio.says("judge-figures", figure)
    line = studio.page.locator(".command:visible textarea").first.input_value()
    assert line == f"ptune evaluate runs/{name}" + (f" --answers {answers}" if answers else "")
    evaluation = evaluation_of(studio, name)
    value = (
        f"{evaluation['after']['loss']:.3f}"
        if "after" in evaluation
        else f"{evaluation['metrics']['accuracy']:.1%}"
    )
    assert value in studio.text("judge-figures")


def evaluation_of(studio: Opened, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((studio.folder / "runs" / name / "evaluation.json").read_text())
    return found


def voted(studio: Opened) -> None:
    """Counted by whose answers were seen, which the page does not say; a reload keeps the votes and the pair that is next."""
    pairs = {one["prompt"]: (one["base"], one["adapter"]) for one in evaluation_of(studio, "talk")["answers"]}
    different = [pair for pair in pairs.values() if pair[0] != pair[1]]
    asked, votes = len(different), VOTES[: len(different) - 1]
    assert len(votes) >= 2
    won = {"base": 0, "talk": 0}
    for number, vote in enumerate(votes, 1):
        before, after = whose(studio, different)
        won["base"] += vote == before
        won["talk"] += vote == after
        studio.press(BUTTONS[vote])
        studio.says("blind-told", f"{number} of {asked} voted on")
    left = studio.text("blind-left")
    studio.open("Judge")
    studio.says("blind-told", f"{len(votes)} of {asked} voted on")
    assert studio.text("blind-left") == left
    lines = (studio.folder / "runs" / "talk" / "votes" / "base.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(votes)
    low, high = interval(won["talk"], sum(won.values()))
    share = won["talk"] / sum(won.values())
    studio.page.locator("#blind-result button").first.click()
    studio.says("blind-result", f"talk wins {share:.0%} [{low:.0%}, {high:.0%}]")


def whose(studio: Opened, pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """On which side the answers before and after training stand, by the evaluation itself."""
    shown = {
        side: letters(studio.page.locator(f"#blind-{side} p").inner_text()) for side in ("left", "right")
    }
    for before, after in pairs:
        if {letters(before), letters(after)} == {*shown.values()}:
            sides = {text: side for side, text in shown.items()}
            return sides[letters(before)], sides[letters(after)]
    raise AssertionError(f"no such answers: {shown}")


def letters(text: str) -> str:
    """What a browser draws alike whatever the white space."""
    return re.sub(r"[^\w]+", "", text)


def reported(studio: Opened) -> None:
    """In a frame in which no script runs, so that a test cannot look into it either; so it asks for what the frame shows."""
    studio.page.locator("#judge-report button").first.click()
    frame = studio.page.locator("iframe.report").element_handle().content_frame()
    assert frame is not None
    frame.wait_for_url(f"{studio.url}/studio/report/talk")
    report = studio.page.request.get(frame.url)
    assert report.body() == (studio.folder / "runs" / "talk" / "report.html").read_bytes()
    assert "sandbox" in report.headers["content-security-policy"]
    assert studio.page.locator("iframe.report").get_attribute("sandbox") == ""


def refused(studio: Opened, why: str) -> None:
    """The command's own sentence, and what the page offers against it."""
    wait_until(lambda: studio.box("ship-run").input_value() == "tweets")
    studio.press("Export and prove")
    studio.says("ship-state", "Not exported", why)
    studio.page.get_by_label("Even if no better than a baseline").check()
    wait_until(lambda: "--anyway" in studio.page.locator(".command:visible textarea").first.input_value())


def exported(studio: Opened, name: str, *, killed: bool = False) -> None:
    """The table fills in; if the studio dies meanwhile, the next one shows the same export, its hops and its end."""
    studio.go("Ship")
    wait_until(lambda: studio.box("ship-run").input_value() == name)
    studio.press("Export and prove")
    rows = studio.page.locator("#ship-proof tbody tr")
    rows.first.wait_for()
    early = rows.count()
    if killed:
        studio.end(signal.SIGKILL)
        studio.begin()
        studio.open("Ship")
    studio.says("ship-state", "none beyond its limit")
    bundle = Bundle.open(studio.folder / "bundles" / name)
    hops = [*bundle.manifest.hops, *bundle.adapter(name).hops]
    assert rows.count() == len(hops) > early
    assert all(hop.name in studio.text("ship-proof") for hop in hops)
    job = Jobs(Workspace(studio.folder)).newest("export", name)
    assert job is not None
    assert (job.state, job.returncode) == ("done", 0)
    studio.says("ship-sizes", "fp32")
    studio.says("ship-proof", "gives the same answers as the trained one")


def measured(studio: Opened) -> None:
    studio.press("Measure the speed here")
    studio.says("ship-sizes", "tokens/s")


def downloaded(studio: Opened) -> None:
    with studio.page.expect_download() as downloading:
        studio.page.get_by_role("link", name="Adapter in PEFT's format").click()
    with zipfile.ZipFile(downloading.value.path()) as archive:
        weights = archive.read("talk-adapter/adapter_model.safetensors")
    assert weights == (studio.folder / "runs" / "talk" / "adapter" / "adapter_model.safetensors").read_bytes()


def served(studio: Opened, name: str) -> None:
    studio.go("Ship")
    studio.page.locator("#serve-start").click()
    studio.says("serve-told", f"Serves {name} at http://127.0.0.1:")
    studio.go("Serve")
    studio.says("serve-models", f"{name}@")
    wait_until(lambda: studio.box("ask-model").input_value() == name)


def answered(studio: Opened) -> None:
    """Asked on the page, and on the server's own, to which a link leads; the server counts both."""
    studio.box("ask-text").fill("Define: Patience")
    studio.press("Ask")
    counted = studio.page.locator("#serve-models tbody tr").filter(has_text="talk@").locator("td").nth(1)
    wait_until(lambda: counted.inner_text() == "1")
    assert studio.page.locator("#ask-answer .answer").count() == 1
    with studio.page.context.expect_page() as opening:
        studio.page.get_by_role("link", name="Open the page").click()
    box = opening.value.locator(".box textarea:visible")
    box.fill("Define: Mercy")
    box.press("Enter")
    wait_until(lambda: counted.inner_text() == "2")
    opening.value.close()


def stopped(studio: Opened) -> None:
    studio.press("Stop the server")
    studio.says("serve-state", "No server runs here")
    [job] = [job for job in Jobs(Workspace(studio.folder)).all() if job.kind == "serve"]
    assert job.state == "stopped"
