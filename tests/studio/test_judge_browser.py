"""The tab Judge in a real browser: a trained model is tried without an export, and confusions lead to their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support import chat_run, classified, tiny_images, tiny_models
from support.browsing import NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened, photographed

from ptune.cli import main
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.fine_tune import train
from ptune.methods.lora import Lora

pytestmark = NEEDS_BROWSER
MOODS, TALK, SHAPES = "moods", "talk", "shapes"
FAMILY = next(iter(tiny_images.FAMILIES))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A workspace with a classifier that was evaluated, and a chat model and one of images that were only trained."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "runs").mkdir()
    run = classified.trained(folder / "runs", name=MOODS, train=Train(max_steps=6, lr=2e-3, batch_size=16))
    kit = tmp_path_factory.mktemp("kit")
    tiny_models.build(kit / "model")
    chat_run.trained(kit).folder.rename(folder / "runs" / TALK)
    assert main(["evaluate", str(run.folder)]) == 0
    images, model = tiny_images.labelled_folder(folder / "images"), tiny_images.build(kit / "vit", FAMILY)
    recipe = Recipe(
        task=ImageClassification(), backbone=Backbone(model=str(model)), method=Lora(r=2), data=Data(files=(images,)),
        train=Train(max_steps=1, batch_size=4),
    )  # fmt: skip
    train(recipe, folder / "runs" / SHAPES)
    with browser() as chromium, opened(folder, chromium) as page:
        yield page


def chosen(studio: Opened, run: str) -> None:
    studio.open("Judge")
    studio.page.locator("#judge-run input").click()
    studio.page.get_by_role("option", name=run, exact=True).click()
    wait_until(lambda: studio.box("judge-run").input_value() == run)


def asked(studio: Opened) -> None:
    """Presses the button until the question is taken: gradio leaves a click out while the button's last event is still ending."""

    def tried() -> bool:
        button = studio.page.get_by_role("button", name="Ask both", exact=True)
        if button.is_enabled() and not stop.is_visible():
            button.click()
            studio.page.wait_for_timeout(200)
        return stop.is_visible()

    stop = studio.page.locator("#try-stop")
    wait_until(tried)


def test_a_confusion_leads_to_its_rows(studio: Opened) -> None:
    chosen(studio, MOODS)
    told = [
        json.loads(line)
        for line in (studio.folder / "runs" / MOODS / "predictions.jsonl").read_text().splitlines()
    ]
    line = max(told, key=lambda one: max(one["scores"]))
    same = [one for one in told if (one["gold"], one["predicted"]) == (line["gold"], line["predicted"])]
    name = f"{len(same)} rows of {line['gold']}, the model says {line['predicted']}: show them"
    button = studio.page.get_by_role("button", name=name, exact=True)
    assert button.inner_text() == str(len(same))
    button.focus()
    studio.page.keyboard.press("Enter")
    studio.says("confusion-examples", f"{len(same)} rows", line["place"])
    assert button.evaluate("one => document.activeElement === one"), "the keyboard stays where it was"
    texts = [row["text"] for row in classified.reviews(60, 160)]
    assert any(text in studio.text("confusion-examples") for text in texts)
    photographed(studio, "confusion")


def test_a_classifier_is_tried_without_an_export(studio: Opened) -> None:
    chosen(studio, MOODS)
    studio.box("try-text").fill("a lovely <b>room</b>")
    studio.press("Ask both")
    studio.says("try-base", "no head for these labels")
    studio.says("try-tuned", "good", "bad", "%")
    assert (
        studio.page.locator("#try .command textarea").input_value()
        == "ptune ask runs/moods 'a lovely <b>room</b>'"
    )
    assert list((studio.folder / "bundles").iterdir()) == []
    photographed(studio, "try-labels")


def test_a_chat_is_tried_and_stopped(studio: Opened) -> None:
    chosen(studio, TALK)
    wait_until(lambda: not studio.page.locator("#confusion").is_visible())
    wait_until(lambda: "good" not in studio.text("try-tuned"))  # what was said of another run is gone
    studio.press("Ask both")
    studio.says("try-told", "there is nothing to ask")
    studio.box("try-text").fill("Define love.")
    asked(studio)
    studio.says("try-told", "Loading the model")
    studio.page.locator("#try-stop").click()
    studio.says("try-told", "stopped before it had answered")
    asked(studio)
    wait_until(lambda: studio.text("try-told") == "" and "After training" in studio.text("try-tuned"))
    command = studio.page.locator("#try .command textarea").input_value()
    assert command == "ptune ask runs/talk 'Define love.' --max-tokens 64"
    assert len({studio.text("try-base"), studio.text("try-tuned")}) == 2
    photographed(studio, "try")


def test_an_image_is_dropped_and_labelled(studio: Opened) -> None:
    chosen(studio, SHAPES)
    studio.page.locator("#try-image").wait_for()
    assert not studio.box("try-text").is_visible()
    one = next(path for path in sorted((studio.folder / "images").rglob("*.png")))
    studio.page.locator("#try-image input[type=file]").set_input_files(one)
    studio.page.locator("#try-image img").wait_for()
    studio.press("Ask both")
    studio.says("try-tuned", *tiny_images.LABELS, "%")
    assert (
        studio.page.locator("#try .command textarea").input_value()
        == f"ptune ask runs/shapes --image {one.name}"
    )
    photographed(studio, "try-image")


def test_every_control_of_the_tab_has_a_name(studio: Opened) -> None:
    chosen(studio, MOODS)
    studio.page.locator("#confusion button").first.wait_for()
    nameless = studio.page.locator("button:visible, input:visible, textarea:visible").evaluate_all(
        """all => all.filter(one => !(one.innerText || one.getAttribute('aria-label') || one.title || one.placeholder
             || one.labels?.length || one.closest('label') || one.closest('fieldset'))).map(one => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
