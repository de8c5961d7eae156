"""Which models see images as ptune trains them: found by what they do, not by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.tiny_images import picture
from support.tiny_vision import ROWS, build

from ptune.backbone.exportable import why_not_exportable
from ptune.backbone.image_rows import Table, check_seen, rows_of, see, shown
from ptune.backbone.load import load, load_codec
from ptune.backbone.vision_language import only_text, sees_images, why_blind
from ptune.codecs.album import Album
from ptune.codecs.vision import part_of
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.methods.text_part import text_part
from ptune.planning.model_check import check_model

REFUSED = {
    "qwen3_vl": (transformers.Qwen3VLConfig, "DeepStack"),
    "gemma3": (transformers.Gemma3Config, "bidirectional attention"),
    "paligemma": (transformers.PaliGemmaConfig, "bidirectional attention"),
    "mllama": (transformers.MllamaConfig, "no causal language model by itself"),
    "blip-2": (transformers.Blip2Config, "qformer_config"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_other_ways_of_seeing_are_refused_by_name(family: str) -> None:
    make, told = REFUSED[family]
    config = make()
    assert sees_images(config)
    assert told in str(why_blind(config))


@pytest.mark.parametrize("text", ["llama", "qwen2", "qwen3", "gemma2", "phi3"])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_any_decoder_and_tower_in_llavas_way(text: str, tower: str, tmp_path: Path) -> None:
    """Rows of a table give the logits that pixels give, for two images among text."""
    build(tmp_path / "model", text, tower)
    loaded = load(Backbone(model=str(tmp_path / "model"), dtype="float32"))
    model, vision = loaded.model, loaded.codec.vision
    assert vision is not None
    assert vision.layout((50, 40)).rows == ROWS
    assert why_not_exportable(model.config) is None
    check_seen(model, vision)
    images = [picture(50, 40, seed=1), picture(30, 60, seed=2)]
    pixels = torch.from_numpy(np.stack([vision.preprocessing(one) for one in images]))
    album = Album.of(vision, images)
    see(model, Table(rows_of(model, album, "")))
    content: list[dict[str, Any]] = [
        part_of(album.placed(1)),
        {"type": "text", "text": "beside"},
        part_of(album.placed(0)),
    ]
    ids = loaded.codec.encode_prompt([{"role": "user", "content": content}])
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([ids])).logits
        theirs = model(input_ids=torch.tensor([vision.plain(ids)]), pixel_values=pixels.flip(0)).logits
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_a_model_that_does_more_with_an_image_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "model")
    loaded = load(Backbone(model=str(tmp_path / "model"), dtype="float32"))
    model, plain = loaded.model, loaded.model.model.forward

    def forward(pixel_values: Any = None, **inputs: Any) -> Any:
        output = plain(pixel_values=pixel_values, **inputs)
        if pixel_values is not None:
            output.last_hidden_state = output.last_hidden_state * 1.5
        return output

    model.model.forward = forward
    assert loaded.codec.vision is not None
    with pytest.raises(BackboneError, match="does more with an image"):
        check_seen(model, loaded.codec.vision)
    table = shown(model)
    assert table is not None
    assert len(table.rows) == 0


def test_a_processor_that_keeps_the_images_own_size_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "model")
    file = tmp_path / "model" / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"] |= {"do_center_crop": False}
    file.write_text(json.dumps(settings))
    with pytest.raises(BackboneError, match="cannot be done without torch"):
        load_codec(Backbone(model=str(tmp_path / "model")))


def test_only_the_decoder_is_left_for_the_graph(tmp_path: Path) -> None:
    build(tmp_path / "model")
    model = load(Backbone(model=str(tmp_path / "model"), dtype="float32")).model
    inside = text_part(model)
    names = {name for name, _ in only_text(model).named_parameters()}
    assert names
    assert all(name.startswith((f"{inside}.", "lm_head.")) for name in names)


def test_what_can_be_done_with_it_is_said_before_it_is_loaded(tmp_path: Path) -> None:
    build(tmp_path / "model")
    found = check_model(Backbone(model=str(tmp_path / "model")))
    assert (found.kind, found.export.works, found.chat_template) == ("decoder that sees images", True, True)
    assert found.train["lora"].works
    assert not found.problems
