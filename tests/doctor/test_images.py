"""What the doctor says about images: every rule finds its planted defect and names the file, clean images have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tiny_images

from ptune.cli import guarded
from ptune.codecs.image import Preprocessing
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.data.images.look import look_at_file
from ptune.doctor.finding import Finding
from ptune.doctor.images import SET_RULES, SOURCE_RULES, ImageExamination, examine_images
from ptune.doctor.show_images import document
from ptune.errors import DataError
from ptune.fine_tune import train
from ptune.formats.whole_write import read_json

MODEL = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CAT, DOG, EEL = tiny_images.LABELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ with 21 images, validation/ and test/ with 3 images each."""
    for number, (split, each) in enumerate((("train", 7), ("validation", 1), ("test", 1))):
        for place, label in enumerate(tiny_images.LABELS):
            (tmp_path / split / label).mkdir(parents=True)
            for count in range(each):
                picture(1000 * number + 100 * place + count).save(tmp_path / split / label / f"{count}.png")
    return tmp_path


def picture(seed: int, width: int = 40, height: int = 36) -> Image.Image:
    return tiny_images.picture(width, height, seed)


def examined(folder: Path, **data: object) -> ImageExamination:
    paths = {split: (folder / split,) for split in ("validation", "test")}
    given = Data(**{"files": (folder / "train",), **paths, **data})  # type: ignore[arg-type]
    return examine_images(given, ImageClassification(), MODEL, 0)


def one_class(folder: Path) -> Path:
    for label in (DOG, EEL):
        for split in ("train", "validation", "test"):
            (folder / split / label).rename(folder / f"{label} {split}, elsewhere")
    return folder / "train" / CAT / "0.png"


def copied(split: str, label: str, *, as_bitmap: bool = True) -> Callable[[Path], Path]:
    """The same pixels in a file of another format, so of other bytes."""

    def plant(folder: Path) -> Path:
        path = folder / split / label / ("z.bmp" if as_bitmap else "z.png")
        Image.open(folder / "train" / CAT / "3.png").save(path)
        return path

    return plant


def imbalance(folder: Path) -> None:
    for number in range(140):
        picture(5000 + number, 12, 33).resize((33, 33)).save(folder / "train" / CAT / f"more {number}.png")


def untrained(folder: Path) -> None:
    (folder / "train" / "fox").mkdir()
    picture(7000).save(folder / "train" / "fox" / "0.png")


def misspelt(folder: Path) -> None:
    (folder / "train" / CAT.upper()).mkdir()
    picture(7000).save(folder / "train" / CAT.upper() / "0.png")


def saved(image: Image.Image, name: str) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        image.save(folder / "train" / DOG / name)
        return folder / "train" / DOG / name

    return plant


def truncated(folder: Path) -> Path:
    path = folder / "train" / EEL / "2.png"
    path.write_bytes(path.read_bytes()[:300])
    return path


def transparent() -> Image.Image:
    image = picture(8000).convert("RGBA")
    image.putpixel((3, 3), (9, 9, 9, 0))
    return image


def grey_with_noise() -> Image.Image:
    noise = np.random.default_rng(0).normal(90, 1, (36, 40, 3))
    return Image.fromarray(noise.round().astype(np.uint8))


DEFECTS: dict[str, Callable[[Path], Path | None]] = {
    "unusable-image": truncated,
    "one-class": one_class,
    "validation-overlap": copied("validation", CAT),
    "test-overlap": copied("test", CAT),
    "conflicting-labels": copied("train", DOG),
    "duplicates": copied("train", CAT),
    "misspelt-labels": misspelt,
    "label-imbalance": imbalance,
    "untrained-labels": untrained,
    "constant-images": saved(grey_with_noise(), "z.jpg"),
    "transparent-images": saved(transparent(), "z.png"),
    "cmyk-images": saved(picture(8001).convert("CMYK"), "z.jpg"),
    "small-images": saved(picture(8002, 40, 15), "z.png"),
}


@pytest.mark.parametrize("rule", [*SOURCE_RULES, *SET_RULES], ids=lambda rule: rule.id)
def test_every_rule_finds_its_planted_defect_and_nothing_else(rule, folder: Path) -> None:
    file = DEFECTS[rule.id](folder)
    (finding,) = examined(folder).findings
    assert finding.rule == rule.id
    overlaps_little = rule.id == "validation-overlap"  # one of four: it chooses a step, and is not believed
    assert finding.severity == ("warning" if overlaps_little else rule.severity)
    assert finding.count == 1
    if file is not None:
        assert str(finding.place) == str(file)


def test_clean_images_have_no_findings(folder: Path) -> None:
    found = examined(folder)
    assert found.findings == []
    assert not found.has_errors


def test_the_sample_that_comes_with_ptune_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("doctor", ["images_lora", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [(one["rule"], one["severity"], one["count"]) for one in findings] == [
        ("small-images", "warning", 800)
    ]


def test_images_that_cannot_be_used_are_told_by_kind_with_all_else(folder: Path) -> None:
    for number in (0, 1):
        (folder / "train" / CAT / f"{number}.png").write_bytes(b"")
    (folder / "train" / DOG / "notes.txt").write_text("no image")
    (folder / "test" / DOG / "0.png").unlink()
    Image.new("RGB", (1, 1)).save(folder / "test" / DOG / "0.png")
    copied("train", EEL)(folder)
    found = {(one.rule, str(one.place), one.count) for one in examined(folder).findings}
    assert found == {
        ("unusable-image", str(folder / "train" / CAT / "0.png"), 2),
        ("unusable-image", str(folder / "train" / DOG / "notes.txt"), 1),
        ("unusable-image", str(folder / "test" / DOG / "0.png"), 1),
        ("conflicting-labels", str(folder / "train" / EEL / "z.bmp"), 1),
    }


def table(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,label\n" + "".join(f"{a},{b}\n" for a, b in rows).encode())
    return path


def test_findings_in_a_table_name_its_line_and_the_image(folder: Path) -> None:
    rows = [(f"train/{label}/{n}.png", label) for label in tiny_images.LABELS for n in range(6)]
    path = table(folder, [*rows, ("train/cat/3.png", CAT), ("train/cat/gone.png", CAT), ("", DOG)])
    found: dict[str, Finding] = {one.rule: one for one in examined(folder, files=(path,)).findings}
    assert {*found} == {"byte-order-mark", "duplicates", "unusable-image", "unusable-row"}
    assert str(found["duplicates"].place) == f"{path}:20 ({folder / 'train/cat/3.png'})"
    assert f"a copy of {path}:5 ({folder / 'train/cat/3.png'})" in found["duplicates"].message
    assert found["unusable-image"].described()["place"] == {
        "file": str(path), "line": 21, "image": str(folder / "train/cat/gone.png"),
    }  # fmt: skip
    assert (str(found["unusable-row"].place), found["unusable-row"].count) == (f"{path}:22", 1)


def test_arrays_are_compared_with_files_by_their_pixels(folder: Path, tmp_path: Path) -> None:
    x = np.stack([np.asarray(Image.open(folder / "train" / CAT / f"{n}.png")) for n in range(2)])
    grey = np.asarray(picture(9000).convert("L"))
    np.savez(tmp_path / "a.npz", x=x, y=np.array([CAT, DOG]))
    np.savez(tmp_path / "b.npz", x=grey[None], y=np.array([CAT]))
    picture(9000).convert("L").save(folder / "train" / CAT / "z.png")
    (finding,) = examined(folder, test=(tmp_path / "a.npz", tmp_path / "b.npz")).findings
    assert (finding.rule, finding.severity, finding.count) == ("test-overlap", "error", 3)
    assert str(finding.place) == f"{tmp_path / 'a.npz'}, row 1"


def test_a_path_that_cannot_be_read_does_not_hide_the_others(folder: Path) -> None:
    copied("train", EEL)(folder)
    found = examined(folder, test=(folder / "gone",)).findings
    assert [(one.rule, one.severity) for one in found] == [
        ("unusable-file", "error"), ("conflicting-labels", "warning"),
    ]  # fmt: skip


MODES = {
    "P": lambda image: image.quantize(16),
    "L": lambda image: image.convert("L"),
    "1": lambda image: image.convert("1"),
    "LA": lambda image: image.convert("LA"),
    "I;16": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}


def test_modes_and_sizes_are_counted(folder: Path) -> None:
    for mode, convert in MODES.items():
        convert(picture(len(mode))).save(folder / "train" / CAT / f"{ord(mode[0])}{len(mode)}.png")
    train = document(examined(folder))["splits"]["train"]
    assert train["modes"] == {"RGB": 21, "P": 1, "L": 1, "1": 1, "LA": 1, "I;16": 1}
    assert (train["smallest_pixels"], train["largest_pixels"]) == (36, 36)
    assert sum(train["shorter_edges"].values()) == train["images"] == 26


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1"])
def test_what_shows_through_is_seen_in_every_mode_that_has_it(mode: str, tmp_path: Path) -> None:
    def looked(image: Image.Image, **options: Any) -> bool:
        image.save(tmp_path / "a.png", **options)
        raw = (tmp_path / "a.png").read_bytes()
        return look_at_file(raw, image.convert("RGB")).see_through

    plain = picture(1).quantize(16) if mode == "P" else picture(1).convert(mode)
    assert not looked(plain)
    if mode in ("P", "L", "1"):
        assert looked(plain, transparency=plain.getpixel((0, 0)))
    else:
        plain.putalpha(Image.new("L", plain.size, 254))
        assert looked(plain)


def test_the_command_shows_counts_sizes_and_findings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ["images_lora", "--data.files", str(folder / "train"), "--data.test", "--task.size", "32"]
    assert guarded("doctor", recipe) == 0
    shown = capsys.readouterr().out
    assert "the model sees 32" in shown
    assert "images with each label" in shown
    assert "RGB" in shown
    (folder / "train" / DOG / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert guarded("doctor", recipe) == 1
    assert "broken.png" in capsys.readouterr().out
    assert guarded("doctor", [*recipe, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == sorted(tiny_images.LABELS)
    assert found["model_input"] == {"height": 32, "width": 32}
    for label in tiny_images.LABELS:
        assert sum(found["splits"][split]["labels"][label] for split in ("train", "validation")) == 7


def test_training_stops_at_errors_and_keeps_warnings(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        task=ImageClassification(augmentation="none"),
        backbone=Backbone(model=str(tiny_images.build(tmp_path / "resnet", "resnet"))),
        data=Data(files=(folder / "train",), validation=(folder / "validation",), test=(folder / "test",)),
        train=Train(max_steps=1, batch_size=2),
    )
    saved(grey_with_noise(), "z.jpg")(folder)
    run = train(recipe, tmp_path / "run")
    (warning,) = read_json(run.data_path)["findings"]
    assert (warning["rule"], warning["place"]["file"]) == (
        "constant-images",
        str(folder / "train" / DOG / "z.jpg"),
    )
    copied("test", CAT)(folder)
    with pytest.raises(DataError, match=r"nothing was trained.*doctor(.|\n)*z\.bmp.*test-overlap"):
        train(recipe, tmp_path / "other")
