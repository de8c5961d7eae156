"""Models that cut images into tiles: rows of a table give the logits that transformers gives for pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_images import picture
from support.tiny_tiles import EDGE, TILED, with_pillow
from transformers import Idefics3Processor, LlavaNextImageProcessor

from ptune.backbone.image_rows import Table, check_seen, rows_of, see
from ptune.backbone.load import load, load_codec
from ptune.codecs.album import Album
from ptune.codecs.vision import part_of
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.planning.model_check import check_model

IMAGES = [picture(90, 30, seed=1), picture(25, 60, seed=2), picture(50, 50, seed=3)]


@pytest.mark.parametrize("kind", TILED)
def test_logits_of_several_images_of_several_shapes_are_transformers_own(kind: str, tmp_path: Path) -> None:
    path = TILED[kind](tmp_path / "model")
    loaded, processor = load(Backbone(model=str(path), dtype="float32")), with_pillow(path)
    model, vision = loaded.model, loaded.codec.vision
    assert vision is not None
    check_seen(model, vision)
    album = Album.of(vision, IMAGES)
    see(model, Table(rows_of(model, album, ""), album.grids))
    order = (2, 0, 1)
    content: list[dict[str, Any]] = []
    for at in order:
        content += [part_of(album.placed(at)), {"type": "text", "text": f"number {at},"}]
    ids = loaded.codec.encode_prompt([{"role": "user", "content": content}])
    plain = [{"type": "image"} if part["type"] == "image" else part for part in content]
    text = processor.apply_chat_template(
        [{"role": "user", "content": plain}], tokenize=False, add_generation_prompt=True
    )
    asked = processor(text=[text], images=[IMAGES[at] for at in order], return_tensors="pt")
    assert asked["input_ids"][0].tolist() == vision.plain(ids)
    with torch.no_grad():
        ours, theirs = model(input_ids=torch.tensor([ids])).logits, model(**asked).logits
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


@pytest.mark.parametrize("kind", TILED)
def test_another_order_of_rows_is_found_out(kind: str, tmp_path: Path) -> None:
    """The check at load compares whole models: rows in a wrong order change what is said."""
    loaded = load(Backbone(model=str(TILED[kind](tmp_path / "model")), dtype="float32"))
    vision, model = loaded.codec.vision, loaded.model
    assert vision is not None
    album = Album.of(vision, IMAGES[:1])
    right = rows_of(model, album, "")
    ids = torch.tensor(
        [loaded.codec.encode_prompt([{"role": "user", "content": [part_of(album.placed(0))]}])]
    )
    with torch.no_grad():
        see(model, Table(right, album.grids))
        one = model(input_ids=ids).logits
        see(model, Table(np.ascontiguousarray(right[::-1]), album.grids))
        other = model(input_ids=ids).logits
    assert float((one - other).abs().max()) > 1e-3 * float(one.abs().max())


def test_what_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    found = check_model(Backbone(model=str(TILED["llava_next"](tmp_path / "model"))))
    assert (found.kind, found.export.works) == ("decoder that sees images", True)
    assert not found.problems


def refused(folder: Path, told: str) -> None:
    with pytest.raises(BackboneError, match=told) as error:
        load_codec(Backbone(model=str(folder)))
    assert "\n" not in str(error.value)


def test_a_rule_that_is_not_known_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TILED["llava_next"](tmp_path / "model")

    def mirrored(self: Any, *arguments: Any, **named: Any) -> list[torch.Tensor]:
        return [tile.flip(-1) for tile in plain(self, *arguments, **named)]

    plain = LlavaNextImageProcessor._get_image_patches
    monkeypatch.setattr(LlavaNextImageProcessor, "_get_image_patches", mirrored)
    refused(path, "by none of the ways to cut an image")


def written_longer(monkeypatch: pytest.MonkeyPatch, by: Callable[[int], int]) -> None:
    """The processor writes so many tokens more for an image, by its place in the prompt."""
    plain = Idefics3Processor.replace_image_token

    def longer(self: Any, image_inputs: Any, image_idx: int, **named: Any) -> str:
        return plain(self, image_inputs, image_idx, **named) + "!" * by(image_idx)

    monkeypatch.setattr(Idefics3Processor, "replace_image_token", longer)


def test_a_prompt_that_does_not_follow_from_the_tiles_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TILED["idefics3"](tmp_path / "model")
    pictures = iter(range(1000))
    written_longer(monkeypatch, lambda image: next(pictures))
    refused(path, "does not follow from how it is cut into tiles")


def test_images_that_are_shown_otherwise_in_company_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LLaVA-OneVision does, which cuts an image only where it stands alone."""
    path = TILED["idefics3"](tmp_path / "model")
    written_longer(monkeypatch, lambda image: image)
    refused(path, "otherwise where another stands beside it")


def test_a_processor_whose_packages_are_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TILED["idefics3"](tmp_path / "model")

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError(
            "Package `num2words` is required to run SmolVLM processor. Install it with `pip install num2words`."
        )

    monkeypatch.setattr(Idefics3Processor, "__init__", missing)
    refused(path, "processor .* num2words")


def test_tiles_have_the_towers_edge(tmp_path: Path) -> None:
    vision = load_codec(Backbone(model=str(TILED["idefics3"](tmp_path / "model")))).vision
    assert vision is not None
    assert vision.preprocessing.size == (EDGE, EDGE)
    assert vision.most_written == max(
        len(vision.layout(size).written) for size in ((100, 100), (100, 20), (9, 90))
    )
