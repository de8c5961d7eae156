"""ptune doctor on images: counts of each label, and every image that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_images

from ptune.cli import guarded


def test_counts_of_each_label_in_each_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tiny_images.labelled_folder(tmp_path / "images", each=6)
    recipe = ["images_lora", "--data.files", str(images), "--data.test"]
    assert guarded("doctor", [*recipe, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == sorted(tiny_images.LABELS)
    for label in tiny_images.LABELS:
        assert found["train"]["labels"][label] + found["validation"]["labels"][label] == 6
    assert guarded("doctor", recipe) == 0
    assert tiny_images.LABELS[0] in capsys.readouterr().out


def test_an_image_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tiny_images.labelled_folder(tmp_path / "images", each=2)
    (images / tiny_images.LABELS[1] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert guarded("doctor", ["images_lora", "--data.files", str(images), "--data.test"]) == 1
    assert "broken.png" in capsys.readouterr().err
