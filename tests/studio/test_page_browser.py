"""The studio's page in a real browser, without a training: data is recognised, a recipe is written, mistakes are sentences."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.browsing import FITS, NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened, photographed

from ptune.config.recipe import Data, Recipe, Train
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.formats.whole_write import write_text

pytestmark = NEEDS_BROWSER
MOODS = ("glad", "sad")


def _tweets(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "tweets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("message", "mood"))
        writer.writerows((f"this is <b>message</b> {at}", MOODS[at % 2]) for at in range(40))
    return folder / "tweets.csv"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with browser() as chromium, opened(tmp_path_factory.mktemp("studio"), chromium) as page:
        yield page


@pytest.fixture
def dropped(studio: Opened, tmp_path: Path) -> Opened:
    studio.open("Data")
    studio.drop(_tweets(tmp_path / "from"))
    studio.says("look", "data/tweets.csv", "likely for classify")
    return studio


def test_a_csv_of_labelled_texts_is_recognised(dropped: Opened) -> None:
    assert "this is <b>message</b> 3" in dropped.text("look"), "data is text, not HTML"
    wait_until(lambda: dropped.box("task").input_value().startswith("classify"))
    for name, column in (("column-0", "message"), ("column-1", "mood")):
        wait_until(partial(dropped.holds, name, column))
    dropped.page.reload()
    dropped.says("look", "data/tweets.csv")
    wait_until(lambda: dropped.holds("column-1", "mood"))  # it was remembered


def test_columns_that_could_all_be_the_label_are_left_open(studio: Opened, tmp_path: Path) -> None:
    path = tmp_path / "letters.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("message", "about", "way"))
        writer.writerows(
            (
                f"where is parcel {at}, which I asked for",
                ("refund", "delivery", "size")[at % 3],
                ("mail", "phone")[at % 2],
            )
            for at in range(30)
        )
    studio.open("Data")
    studio.drop(path)
    studio.says("look", "data/letters.csv", "choose what the model is to learn")
    studio.box("task").click()
    studio.page.get_by_role("option", name="classify: a label for each text").click()
    studio.says("look", "2 columns could be the label", "way (mail, phone)")
    studio.says("column-0", "guessed, check it: where is parcel")
    studio.says("column-1", "choose one: about, way")
    wait_until(lambda: studio.holds("column-1", "not chosen yet"))
    photographed(studio, "label-open")
    studio.press("Make a recipe")
    studio.says("examined", "Choose which column is the label")
    studio.choose("column-1", "about")
    studio.says("column-1", "refund, delivery, size")
    path.write_text(path.read_text().replace("parcel", "packet"))
    studio.drop(path)
    studio.says("look", "letters.csv is here already", "this file is called letters-2.csv", "packet")
    wait_until(lambda: studio.holds("column-1", "about"))
    photographed(studio, "label-kept")


def test_what_cannot_be_read_is_a_sentence(studio: Opened, tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 not really")
    studio.open("Data")
    studio.drop(bad)
    studio.says("look", "bad.parquet", "It was not kept")
    assert not (studio.folder / "data" / "bad.parquet").exists()
    assert studio.page.locator("#look [role=alert]").count() == 1
    assert "Traceback" not in studio.page.content()


def test_errors_are_told_and_a_clean_copy_has_none(studio: Opened, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("comment", "verdict"))
        for at in range(30):
            writer.writerow(
                ("" if at in (3, 5, 7) else f"number {at}", "" if at in (8, 9) else MOODS[at % 2])
            )
        writer.writerow(("number 0", MOODS[0]))
    studio.open("Data")
    studio.drop(path)
    studio.says("look", "data/reviews.csv", "likely for classify")
    for name, column in (("column-0", "comment"), ("column-1", "verdict")):
        wait_until(partial(studio.holds, name, column))
    studio.press("Examine the rows")
    studio.says("examined", "comment is empty", "label is empty")
    studio.press("Make a clean copy")
    studio.says("examined", "25 rows; left out: 5 that cannot be used, 1 copies")
    studio.press("Examine the rows")
    studio.says("examined", "Splits")
    assert "error" not in studio.text("examined")
    studio.drop(path)
    studio.says("look", "data/reviews.csv")
    wait_until(lambda: studio.text("examined") == "")
    studio.press("Examine the rows")
    studio.says("examined", "label is empty")
    studio.press("Make a recipe")
    studio.says("recipe-head", "data/reviews.csv")
    wait_until(lambda: "training will stop" in studio.page.content())


def test_chat_data_is_recognised(studio: Opened, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{at}?"}, {"role": "assistant", "content": "!"}]}
        for at in range(9)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    studio.open("Data")
    studio.drop(path)
    studio.says("look", "data/talk.jsonl", "likely for chat")
    studio.press("Make a recipe")
    studio.says("recipe-head", "chat", "data/talk.jsonl")
    wait_until(lambda: studio.box("name").input_value() == "talk")


def test_a_recipe_is_written_with_what_was_changed(dropped: Opened) -> None:
    dropped.press("Make a recipe")
    dropped.says("recipe-head", "classify", "data/tweets.csv")
    wait_until(lambda: dropped.box("name").input_value() == "tweets")
    dropped.page.get_by_label("quick:").check()
    dropped.says("diff", "preset quick")
    dropped.says("preset", "Here up to 20 steps, 8.9 passes over 36 rows")
    assert not dropped.page.locator("#predict").is_visible(), "of a classifier no memory is predicted"
    dropped.unfold("all-options")
    dropped.option("train.lr", "2e-3")
    dropped.says("diff", "0.001", "0.002")
    dropped.press("Write the recipe")
    dropped.says("written", "Written: recipes/tweets.yaml")
    line = dropped.page.locator(".command:visible textarea").last.input_value()
    assert line == "ptune train recipes/tweets.yaml --out runs/tweets"
    recipe = Recipe.load(dropped.folder / "recipes" / "tweets.yaml")
    assert (recipe.train.lr, recipe.train.max_steps, recipe.data.files) == (
        2e-3,
        20,
        (Path("data/tweets.csv"),),
    )
    dropped.page.reload()
    dropped.go("Recipe")
    dropped.says("diff", "train.lr", "0.002")


def test_mistakes_are_sentences_on_the_page(dropped: Opened) -> None:
    dropped.press("Make a recipe")
    dropped.says("recipe-head", "data/tweets.csv")
    dropped.unfold("all-options")
    dropped.option("train.lr", "fast", told="recipe-head")
    dropped.says("wrong-train.lr", "fast")
    assert "fast" not in dropped.text("recipe-head"), "beside its field, once"
    dropped.press("Train it")
    dropped.says("written", "Nothing was written", "train.lr")
    assert "fast" not in dropped.text("written")
    photographed(dropped, "wrong-option")
    dropped.box("option-train.lr").fill("1e-3")
    wait_until(lambda: dropped.text("wrong-train.lr") == "")
    dropped.box("search").fill("train.epochz")
    dropped.says("all-options", "did you mean 'epochs'?")
    dropped.box("name").fill("../up")
    dropped.says("recipe-head", "cannot be a name")
    dropped.press("Write the recipe")
    dropped.says("written", "cannot be a name")
    dropped.box("name").fill("tweets")
    wait_until(lambda: "cannot be a name" not in dropped.text("written"))
    assert list((dropped.folder / "runs").iterdir()) == []
    assert "Traceback" not in dropped.page.content()


def test_each_tab_fits_a_phone_and_a_wide_screen_and_names_its_controls(dropped: Opened) -> None:
    for tab in ("Data", "Recipe", "Run"):
        dropped.go(tab)
        assert nameless_controls(dropped) == [], tab
        for width in (420, 2560):
            dropped.page.set_viewport_size({"width": width, "height": 900})
            wait_until(lambda: dropped.page.evaluate(FITS))
        dropped.page.set_viewport_size({"width": 1280, "height": 900})


def nameless_controls(studio: Opened) -> list[str]:
    """What a screen reader has no name for."""
    controls = studio.page.locator("button:visible, input:visible, textarea:visible")
    nameless: list[str] = controls.evaluate_all(
        """all => all.filter(one => !(one.innerText || one.getAttribute('aria-label') || one.title || one.placeholder
             || one.labels?.length || one.closest('label') || one.closest('fieldset'))).map(one => one.outerHTML.slice(0, 200))"""
    )
    return nameless


def test_a_finished_run_leads_to_the_tab_judge(studio: Opened) -> None:
    for name in ("first", "second"):
        folder = studio.folder / "runs" / name
        folder.mkdir(parents=True)
        base = BaseIdentity(source="tiny", hash="0" * 64)
        write_text(
            folder / "run.json", RunRecord(created="2024", base=base, status="finished").model_dump_json()
        )
    studio.open("Run")
    studio.says("facts", "finished")
    wait_until(lambda: studio.text("samples") == "")  # it has written no text
    shown = studio.page.locator("#facts h2").inner_text()
    studio.press("Judge it")
    wait_until(
        lambda: studio.box("judge-run").is_visible() and studio.box("judge-run").input_value() == shown
    )
    studio.go("Run")
    studio.press("Export it")
    wait_until(lambda: studio.box("ship-run").is_visible() and studio.box("ship-run").input_value() == shown)


def test_answers_appear_step_by_step_while_a_run_trains(studio: Opened) -> None:
    folder = studio.folder / "runs" / "writer"
    folder.mkdir(parents=True)
    base = BaseIdentity(source="tiny", hash="0" * 64)
    record = RunRecord(created="2024", base=base, status="running", planned_steps=20)
    write_text(folder / "run.json", record.model_dump_json())

    def validated(*steps: int) -> None:
        entries = [{"step": step, "loss": 1.0, "validation_loss": 1 / step} for step in steps]
        answers = [
            {"step": step, "prompt": "What is <b>patience</b>?", "answer": f"After {step}", "ended": step > 5, "expected": "A virtue."}
            for step in steps
        ]  # fmt: skip
        write_text(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
        write_text(folder / "samples.jsonl", "".join(json.dumps(answer) + "\n" for answer in answers))

    validated(5)
    studio.open("Run")
    studio.says("samples", "What is <b>patience</b>?", "After 5 … (cut)", "A virtue.")
    validated(5, 10)
    studio.says("samples", "After 10")
    assert studio.text("samples").index("After 10") < studio.text("samples").index("After 5")
    photographed(studio, "samples")


def _searched(folder: Path, lrs: tuple[float, ...]) -> None:
    """A search as `ptune tune` leaves it after so many trials; the best is the one nearest to 1e-3."""
    folder.mkdir(parents=True, exist_ok=True)
    trials: list[dict[str, Any]] = [
        {
            "number": at, "state": "finished", "params": {"train.lr": lr, "method.r": (4, 8, 16)[at % 3]}, "last": 1.0, "steps": 9,
            "value": 1.0 + abs(math.log10(lr) + 3), "seconds": 5.0, "why": "",
        }
        for at, lr in enumerate(lrs)
    ]  # fmt: skip
    best = min(trials, key=lambda one: one["value"])
    document = {
        "metric": "validation_loss", "direction": "minimize", "space": {"train.lr": "log:1e-05..0.01", "method.r": "4|8|16"},
        "trials": trials, "best": {"trial": best["number"]},
    }  # fmt: skip
    write_text(folder / "tune.json", json.dumps(document))
    Recipe(name="moods", train=Train(lr=best["params"]["train.lr"])).save(folder / "best.yaml")


def test_trials_appear_and_the_best_recipe_is_one_click(studio: Opened) -> None:
    Recipe(name="moods").save(studio.folder / "recipes" / "moods.yaml")
    studio.open("Run")
    assert not studio.page.locator("#take-best").is_visible()
    folder = studio.folder / "runs" / "moods-tune"
    _searched(folder, (1e-5, 1e-4))
    studio.says("trials", "2 trials", "validation loss (lower is better)")
    _searched(folder, (1e-5, 1e-4, 1.2e-3, 9e-3, 3e-4))
    studio.says("trials", "5 trials", "0.0012", "the best")
    assert studio.page.locator("#trials polyline").count() == 5
    assert studio.page.locator("#trials polyline.kept").count() == 1
    photographed(studio, "search")
    studio.press("Take the best recipe")
    studio.says("taken", "recipes/moods-best.yaml")
    assert Recipe.load(studio.folder / "recipes" / "moods-best.yaml").train.lr == 1.2e-3
    wait_until(lambda: studio.box("recipe-to-train").input_value() == "moods-best")


def test_a_search_is_asked_for_and_what_cannot_be_searched_is_told(studio: Opened) -> None:
    Recipe(name="found", data=Data(files=(Path("data/none.csv"),))).save(
        studio.folder / "recipes" / "found.yaml"
    )
    studio.open("Run")
    studio.choose("recipe-to-train", "found")
    studio.unfold("search-panel")
    studio.press("Search")
    studio.says("search-told", "--space is empty")
    studio.press("Propose fields")
    wait_until(lambda: "train.lr=log:" in studio.box("space").input_value())
    studio.press("Search")
    studio.says("search-told", "found-tune is in the queue")
    line = studio.page.locator("#search-panel .command textarea").input_value().replace("'", "")
    assert line.startswith(
        "ptune tune recipes/found.yaml --trials 10 --out runs/found-tune --space train.lr=log:"
    )
    studio.says("search-trouble", "found-tune:", "data/none.csv")
