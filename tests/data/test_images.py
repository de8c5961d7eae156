"""Labelled images from folders, tables and arrays: what is read, and what is said of what cannot be."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tiny_images

from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Data
from ptune.data.images.labelled import labels_of, open_images, read_images
from ptune.data.images.splits import load_images
from ptune.errors import DataError, PtuneError

TASK = ImageClassification()
NAMES = Labels(tiny_images.LABELS, "single")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_images.labelled_folder(tmp_path / "images", each=4)


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def arrays(path: Path, **changes: Any) -> Path:
    x = np.stack([np.asarray(tiny_images.picture(9, 8, seed)) for seed in range(6)])
    held = {"x_train": x[:4], "y_train": np.array([0, 1, 2, 1]), "x_test": x[4:], "y_test": np.array([2, 0])}
    held |= {"names": np.array(tiny_images.LABELS)}
    np.savez(path, **{name: value for name, value in {**held, **changes}.items() if value is not None})
    return path


def refused(path: Path | str, labels: Labels = NAMES) -> str:
    with pytest.raises(PtuneError) as caught:
        read_images([Path(path)], TASK, labels)
    return str(caught.value)


def test_a_folder_has_a_folder_a_label(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"")
    rows = read_images([folder], TASK, NAMES)
    assert [row.label for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows[5].place == f"{folder}, image 6"
    assert np.array_equal(np.asarray(rows[5].input.open()), np.asarray(Image.open(folder / "dog" / "1.png")))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_names_paths_beside_it(folder: Path, suffix: str) -> None:
    rows = [{"image": f"{name}/0.png", "label": name, "camera": "old"} for name in tiny_images.LABELS]
    path = table(folder / f"list.{suffix}", rows)
    found = read_images([path], TASK, NAMES)
    assert [row.label for row in found] == [0, 1, 2]
    assert found[1].columns == {"camera": "old"}
    assert found[1].place == f"{path}, line {3 if suffix == 'csv' else 2}"
    assert found[1].input.open().size == (40, 36)


def test_a_table_may_name_what_looks_like_a_home_and_what_is_no_name(folder: Path) -> None:
    shutil.copy(next(folder.rglob("*.png")), folder / "~draft.png")
    rows = [{"image": name, "label": "x"} for name in ("~draft.png", "a\0b.png", "\ud800.png")]
    source = open_images(table(folder / "table.jsonl", rows), TASK.columns)
    assert [row.image.path.name for row in source.rows] == ["~draft.png"]
    assert [(one.number, one.reason) for one in source.damaged] == [
        (2, "can be no file's name"),
        (3, "can be no file's name"),
    ]


def test_arrays_have_splits_that_are_named(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz")
    rows = read_images([Path(f"{path}:train")], TASK, NAMES)
    assert [row.label for row in rows] == [0, 1, 2, 1]
    assert [row.label for row in read_images([Path(f"{path}:test")], TASK, NAMES)] == [2, 0]
    assert np.array_equal(np.asarray(rows[2].input.open()), np.asarray(tiny_images.picture(9, 8, 2)))
    assert "holds several splits" in refused(path)
    grey = np.zeros((3, 5, 4), np.uint8)
    np.savez(tmp_path / "b.npz", x=grey, y=np.array(["cat", "eel", "eel"]))
    found = read_images([tmp_path / "b.npz"], TASK, NAMES)
    assert [row.label for row in found] == [0, 2, 2]
    assert (found[0].input.open().mode, found[0].input.open().size) == ("RGB", (4, 5))


def test_the_sample_that_comes_with_ptune() -> None:
    source = open_images(Path("sample:fashion:train"), TASK.columns)
    assert (len(source.rows), len(labels_of([source], ()))) == (600, 10)
    assert len(open_images(Path("sample:fashion:test"), TASK.columns).rows) == 200
    with pytest.raises(DataError, match="there is no sample 'fashon'"):
        open_images(Path("sample:fashon"), TASK.columns)


def test_labels_are_sorted_and_numbers_by_their_value(tmp_path: Path) -> None:
    y = np.array([10, 9, 2, 10])
    path = arrays(tmp_path / "a.npz", names=None, y_train=y)
    assert labels_of([open_images(Path(f"{path}:train"), TASK.columns)], ()) == ("2", "9", "10")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "floats": ({"x_train": np.zeros((4, 8, 8))}, r"x_train is float64 \[4, 8, 8\]; expected uint8"),
    "channels first": ({"x_train": np.zeros((4, 3, 8, 8), np.uint8)}, r"x_train is uint8 \[4, 3, 8, 8\]"),
    "too few labels": ({"y_train": np.array([0, 1])}, "x_train has 4 images, y_train has 2 labels"),
    "float labels": ({"y_train": np.zeros(4)}, "y_train is float64"),
    "a label beyond the names": (
        {"y_train": np.array([0, 1, 7, -1])},
        "label 7 stands for none of the 3 names",
    ),
    "no labels": (
        {"y_train": None},
        "holds no arrays x_train and y_train; it holds names, x_test, x_train, y_test",
    ),
    "one pixel": ({"x_train": np.zeros((4, 1, 1), np.uint8)}, "nothing to be seen"),
    "pickled": ({"x_train": np.array([{}, 1, 2, 3], object)}, "not an npz file of plain arrays"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    path = arrays(tmp_path / "a.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_images([Path(f"{path}:train")], TASK, NAMES)
    assert str(path) in str(caught.value)


def test_an_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    assert "not an npz file" in refused(tmp_path / "a.npz")
    assert "there is no such file" in refused(tmp_path / "b.npz:train")


def test_every_image_that_cannot_be_used_is_told_with_its_place(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes(b"")
    (folder / "dog" / "0.png").write_bytes((folder / "dog" / "1.png").read_bytes()[:300])
    (folder / "eel" / "notes.txt").write_text("no image")
    Image.new("RGB", (1, 1)).save(folder / "eel" / "0.png")
    told = refused(folder)
    assert told.startswith(f"{folder}: 4 of 13 images cannot be used")
    assert "image 2: cat/1.png: the image file is empty (0 bytes)" in told
    assert "image 5: dog/0.png: the image is damaged or truncated" in told
    assert "eel/notes.txt: not an image of a format that Pillow can read" in told
    assert "eel/0.png: the image is 1 x 1 pixel" in told


def test_a_table_with_problems_tells_all_of_them(folder: Path) -> None:
    rows = [("cat/0.png", "cat"), ("cat/9.png", "cat"), ("", "dog"), ("dog/1.png", ""), ("eel/1.png", "cow")]
    path = table(folder / "list.csv", [{"image": image, "label": label} for image, label in rows])
    told = refused(path)
    assert told.startswith(f"{path}: 4 of 5 lines cannot be used")
    assert "line 6: label 'cow' is none of cat, dog, eel" in told
    assert "line 3: cat/9.png: there is no such file" in told
    assert "line 4: has no path in the column 'image'" in told
    assert "line 5: has no label in the column 'label'" in told
    only = table(
        folder / "cow.csv", [{"image": "eel/1.png", "label": "cow"}, {"image": "eel/2.png", "label": "eel"}]
    )
    assert refused(only) == f"{only}:2: label 'cow' is none of cat, dog, eel"


def test_missing_columns_are_named_with_those_there(folder: Path) -> None:
    path = table(folder / "list.csv", [{"picture": "cat/0.png", "kind": "cat"}])
    assert refused(path).startswith(
        f"{path}: has no column 'image' or 'path' or 'file_name' and no column 'label'; there are 'picture', 'kind'"
    )


def test_folders_that_are_none_of_labels(folder: Path, tmp_path: Path) -> None:
    (folder / "stray.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    assert "stray.png lies in no label's folder" in refused(folder)
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "empty")
    (folder / "stray.png").unlink()
    (folder / "fox").mkdir()
    assert "the folder of the label 'fox' holds no image" in refused(folder)
    (folder / "fox").rmdir()
    shutil.copytree(folder, tmp_path / "both" / "train")
    assert f"name it as --data.files {tmp_path}/both/train" in refused(tmp_path / "both")
    for name in ("Train", "Training", "TEST", "dev"):
        shutil.copytree(folder, tmp_path / name / name)
        assert f"{name}/ holds folders of labels itself" in refused(tmp_path / name)


def test_one_label_only_is_refused(folder: Path) -> None:
    rows = [{"image": f"cat/{number}.png", "label": "cat"} for number in range(4)]
    path = table(folder / "list.csv", rows)
    with pytest.raises(DataError, match="all 3 training images are 'cat': a classifier needs at least two"):
        load_images(Data(files=(path,)), TASK, 0)
    path.unlink()
    with pytest.raises(DataError, match=r"all 3 training images are 'cat'.*limit"):
        load_images(Data(files=(folder,), limit=3), TASK, 0)


def test_what_is_held_out_depends_on_content_and_seed_alone(folder: Path, tmp_path: Path) -> None:
    data = load_images(Data(files=(folder,), validation_share=0.25), TASK, 0)
    assert (len(data.train), len(data.validation), data.parts) == (9, 3, (9,))
    shutil.copytree(folder, tmp_path / "copy")
    for label in tiny_images.LABELS:
        (tmp_path / "copy" / label / "0.png").rename(tmp_path / "copy" / label / "99.png")
    again = load_images(Data(files=(tmp_path / "copy",), validation_share=0.25), TASK, 0)
    other = load_images(Data(files=(folder,), validation_share=0.25), TASK, 1)

    def held(found: Any) -> set[str]:
        return {row.input.sha256 for row in found.validation}

    assert held(again) == held(data)
    assert held(other) != held(data)
    assert {row.input.sha256 for row in data.train}.isdisjoint(held(data))


def test_the_summary_names_files_by_what_is_in_them(folder: Path) -> None:
    def summary() -> Any:
        return load_images(Data(files=(folder,), test=(folder,)), TASK, 0).summary

    before = summary()
    assert [(file["split"], file["rows"], file["format"]) for file in before["files"]] == [
        ("train", 12, "image folder"),
        ("test", 12, "image folder"),
    ]
    assert before["train"]["examples"] + before["validation"]["examples"] == 12
    assert summary() == before
    tiny_images.picture(40, 36, 77).save(folder / "cat" / "0.png")
    after = summary()
    assert after["files"][0]["sha256"] != before["files"][0]["sha256"]
    assert after["test"]["sha256"] != before["test"]["sha256"]


def test_copies_of_an_image_are_held_out_together(folder: Path) -> None:
    for number in range(30):
        shutil.copy(folder / "cat" / "0.png", folder / "dog" / f"copy {number}.png")
    for seed in range(8):
        data = load_images(Data(files=(folder,), validation_share=0.25), TASK, seed)
        trained = {row.input.sha256 for row in data.train}
        assert trained.isdisjoint(row.input.sha256 for row in data.validation)


def test_labels_that_were_asked_for_keep_their_order(folder: Path) -> None:
    asked = ImageClassification(labels=("eel", "dog", "cat", "fox"))
    data = load_images(Data(files=(folder,)), asked, 0)
    assert data.labels.names == asked.labels
    assert {row.label for row in data.train} == {0, 1, 2}
    with pytest.raises(DataError, match="label 'eel' is none of cat, dog"):
        load_images(Data(files=(folder,)), ImageClassification(labels=("cat", "dog")), 0)
