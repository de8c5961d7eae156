"""Rows corrected in the tab Data in a real browser: from what doctor found to the row, and into a copy."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browsing import NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened, photographed

from ptune.config.chat import Chat
from ptune.config.recipe import Data, Recipe
from ptune.data.read import read

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with browser() as chromium, opened(tmp_path_factory.mktemp("studio"), chromium) as page:
        yield page


@pytest.fixture
def reviews(studio: Opened, tmp_path: Path) -> Path:
    """Row 7 has no text."""
    path = tmp_path / f"reviews-{tmp_path.name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(
            ("" if at == 5 else f"<i>number</i> {at}", "glad" if at % 2 else "sad") for at in range(30)
        )
    studio.open("Data")
    studio.drop(path)
    studio.says("look", f"data/{path.name}", "likely for classify")
    return studio.folder / "data" / path.name


def _corrects(studio: Opened, file: Path, number: int) -> None:
    studio.page.get_by_role(
        "button", name=f"Correct row {number} of data/{file.name}", exact=True
    ).first.click()
    studio.says("edit-where", f"data/{file.name}, row {number}")


def test_a_finding_leads_to_its_row_and_the_row_is_corrected(studio: Opened, reviews: Path) -> None:
    before = reviews.read_bytes()
    studio.press("Examine the rows")
    studio.says("examined", "text is empty")
    studio.page.get_by_role("button", name=f"Correct row 7 of data/{reviews.name}", exact=True).first.click()
    studio.says("edit-where", "row 7")
    assert [studio.box(f"edit-{at}").input_value() for at in (0, 1)] == ["", "glad"]
    studio.press("Save in a copy")
    studio.says("edit-told", "Nothing is changed")
    studio.box("edit-0").fill("a text <b>at last</b>")
    photographed(studio, "edit")
    studio.press("Save in a copy")
    copy = studio.folder / "data" / f"{reviews.stem}.edited.jsonl"
    studio.says("edit-told", "Row 7 is corrected", f"data/{copy.name}", f"data/{reviews.name} stays as it is")
    studio.says("look", f"data/{copy.name}")
    assert reviews.read_bytes() == before
    assert {row.number: row.value for row in read(copy).rows}[7] == {
        "text": "a text <b>at last</b>",
        "label": "glad",
    }
    line = studio.page.locator("#edit .command textarea").input_value()
    assert line.startswith(f"ptune edit data/{reviews.name} 7 --set 'text=a text <b>at last</b>' --out data/")
    studio.press("Examine the rows")
    studio.says("examined", "Splits")
    wait_until(lambda: "text is empty" not in studio.text("examined"))


def test_a_shown_row_is_left_out_and_places_stay_right(studio: Opened, reviews: Path) -> None:
    studio.press("Examine the rows")
    studio.says("examined", "text is empty")
    _corrects(studio, reviews, 4)
    studio.box("edit-1").fill("glad")
    studio.press("Save in a copy")
    copy = reviews.with_name(f"{reviews.stem}.edited.jsonl")
    studio.says("look", f"data/{copy.name}")
    studio.page.locator("#examined").get_by_role("button", name="Correct row 7").first.click()
    studio.says("edit-where", f"data/{copy.name}, row 7")
    studio.press("Leave the row out")
    studio.says("edit-told", "Row 7 is left out")
    found = {row.number: row.value["label"] for row in read(copy).rows}
    assert (7 in found, found[4], len(found)) == (False, "glad", 29)
    studio.press("Close")
    wait_until(lambda: not studio.page.locator("#edit").is_visible())


def test_a_copy_that_a_recipe_names_is_not_written_over(studio: Opened, reviews: Path) -> None:
    _corrects(studio, reviews, 2)
    studio.box("edit-0").fill("first")
    studio.press("Save in a copy")
    first = reviews.with_name(f"{reviews.stem}.edited.jsonl")
    studio.says("look", f"data/{first.name}")
    Recipe(task=Chat(), data=Data(files=(Path("data") / first.name,))).save(
        studio.folder / "recipes" / "one.yaml"
    )
    kept = first.read_bytes()
    _corrects(studio, first, 2)
    studio.box("edit-0").fill("second")
    studio.press("Save in a copy")
    studio.says("edit-told", f"{reviews.stem}.edited-2.jsonl", f"data/{first.name} stays as it is")
    assert first.read_bytes() == kept
    (studio.folder / "recipes" / "one.yaml").unlink()


def test_messages_are_corrected_as_json(studio: Opened, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{at}?"}, {"role": "assistant", "content": "!"}]}
        for at in range(9)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    studio.open("Data")
    studio.drop(path)
    studio.says("look", "data/talk.jsonl", "likely for chat")
    _corrects(studio, path, 4)
    studio.box("edit-0").fill("no json")
    studio.press("Save in a copy")
    studio.says("edit-told", "messages holds a list, which is written as JSON")
    studio.box("edit-0").fill(json.dumps(rows[0]["messages"]))
    studio.press("Save in a copy")
    studio.says("edit-told", "Row 4 is corrected")
    assert read(studio.folder / "data" / "talk.edited.jsonl").rows[3].value == rows[0]
