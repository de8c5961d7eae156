"""The confusion matrix as the page shows it: counts of the evaluation, a button for each, and the rows that it counts."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import classified, tiny_images

from ptune.cli import main
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.studio.judge.confusion import Confusion, examples, matrix


class Buttons(HTMLParser):
    """The cells that can be chosen, with what a screen reader says of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: dict[str, str] = {}
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "button":
            self.cells[str(found["data-cell"])] = str(found["aria-label"])

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def evaluated(run: Run) -> dict[str, Any]:
    assert main(["evaluate", str(run.folder)]) == 0
    found: dict[str, Any] = json.loads(run.evaluation_path.read_text())
    return found


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]


def test_a_cell_shows_the_rows_that_it_counts(tmp_path: Path) -> None:
    run = classified.trained(tmp_path, train=Train(max_steps=6, lr=2e-3, batch_size=16))
    evaluation, told = evaluated(run), lines(run)
    found = Confusion.of(evaluation)
    assert found is not None
    texts = {row["text"] for row in classified.reviews(60, 160)}
    for at, gold in enumerate(found.names):
        for said, predicted in enumerate(found.names):
            rows = [line for line in told if (line["gold"], line["predicted"]) == (gold, predicted)]
            assert found.counts[at][said] == len(rows)
            if rows:
                html = examples(found, (at, said), evaluation, run, tmp_path)
                assert f": {len(rows)} row" in html
                surest = max(rows, key=lambda line: max(line["scores"]))
                assert html.index(surest["place"]) == min(
                    html.index(line["place"]) for line in rows if line["place"] in html
                )
                assert any(text in html for text in texts)
    cells = Buttons(matrix(found)).cells
    assert set(cells) == {f"{at},{said}" for at in (0, 1) for said in (0, 1) if found.counts[at][said]}


def test_tags_are_counted_in_words(tmp_path: Path) -> None:
    run = classified.trained(tmp_path, "tags", train=Train(max_steps=2, lr=2e-3, batch_size=16))
    evaluation = evaluated(run)
    found = Confusion.of(evaluation)
    assert found is not None
    assert found.unit == "words"
    assert sum(map(sum, found.counts)) == sum(len(line["gold"]) for line in lines(run))
    place = found.names.index("PLACE")
    said = max(range(len(found.names)), key=lambda at: found.counts[place][at])
    html = examples(found, (place, said), evaluation, run, tmp_path)
    assert any(" ".join(row["tokens"]) in html for row in classified.tagged(60, 160))


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_images_are_shown_while_they_are_the_same(tmp_path: Path, kind: str) -> None:
    import numpy as np
    from PIL import Image

    folder = data = tiny_images.labelled_folder(tmp_path / "images")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind == "npz":
        data = tmp_path / "images.npz"
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((32, 32))) for path in files])
        np.savez(data, x=pixels, y=np.array([path.parent.name for path in files]))
    recipe = Recipe(
        task=ImageClassification(), method=Lora(r=2), data=Data(files=(data,), validation_share=0.3),
        backbone=Backbone(model=str(tiny_images.build(tmp_path / "model", next(iter(tiny_images.FAMILIES))))),
        train=Train(max_steps=1, batch_size=4),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    evaluation = evaluated(run)
    found = Confusion.of(evaluation)
    assert found is not None
    [cell, *_] = [(at, said) for at in range(3) for said in range(3) if found.counts[at][said]]
    html = examples(found, cell, evaluation, run, tmp_path)
    assert html.count('src="data:image/jpeg;base64,') == found.counts[cell[0]][cell[1]]
    if kind == "folder":
        for path in files:
            Image.new("RGB", (8, 8)).save(path)
    else:
        np.savez(data, x=pixels // 2, y=np.array([path.parent.name for path in files]))
    changed = examples(found, cell, evaluation, run, tmp_path)
    assert "data:image" not in changed
    assert "changed since the evaluation" in changed
    for path in (*files, tmp_path / "images.npz"):
        path.unlink(missing_ok=True)
    assert "not there any more" in examples(found, cell, evaluation, run, tmp_path)


@given(names=st.lists(st.text(max_size=30), min_size=1, max_size=25, unique=True), data=st.data())
def test_every_count_has_a_button_that_leads_back_to_it(names: list[str], data: st.DataObject) -> None:
    size = len(names)
    row = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    counts = data.draw(st.lists(row, min_size=size, max_size=size))
    evaluation = {"labels": names, "problem": "single", "details": {"confusion": counts}}
    found = Confusion.of(evaluation)
    assert found is not None
    html = matrix(found)
    buttons = Buttons(html)
    for cell, told in buttons.cells.items():
        chosen = found.cell(cell)
        assert chosen is not None
        at, said = chosen
        unit = "row" if counts[at][said] == 1 else "rows"
        assert told.startswith(f"{counts[at][said]} {unit} of {names[at]}, the model says {names[said]}")
    every = {f"{at},{said}" for at in range(size) for said in range(size) if counts[at][said]}
    if size <= 20:
        assert set(buttons.cells) == every
    else:
        assert set(buttons.cells) <= every, "only confusions are listed"
        assert all(cell.split(",")[0] != cell.split(",")[1] for cell in buttons.cells)


@pytest.mark.parametrize("wrong", ["", "1", "1,", "9,0", "-1,0", "a,b", "0,0,0", "²,0"])
def test_what_names_no_cell(wrong: str) -> None:
    assert Confusion(("a", "b"), ((1, 0), (0, 1))).cell(wrong) is None


def test_other_problems_have_no_matrix() -> None:
    assert Confusion.of({"problem": "multi", "labels": ["a"], "details": {}}) is None
    assert Confusion.of({"split": "test", "answers": []}) is None
