"""Models with positions in three dimensions get them for rows of images wherever tokens come: packed, padded, generated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_images import picture
from support.tiny_tiles import qwen2_5_vl, qwen2_vl, with_pillow

from ptune.backbone.cache_names import cache_argument, cache_in
from ptune.backbone.image_rows import Table, rows_of, see
from ptune.backbone.load import Loaded, load
from ptune.codecs.album import Album
from ptune.codecs.vision import part_of
from ptune.config.recipe import Backbone
from ptune.training.rows.segments import packing, segments

PICTURES = [picture(90, 40, seed=1), picture(30, 70, seed=2)]
ASKED: list[list[Any]] = [[0, "wide"], ["No image."], [1, "tall, and", 0, "wide"]]
NEW = 8


@pytest.fixture(scope="module", params=[qwen2_vl, qwen2_5_vl])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Any]:
    path = request.param(tmp_path_factory.mktemp("model"))
    loaded = load(Backbone(model=str(path), dtype="float32"))
    loaded.model.eval()
    return loaded, with_pillow(path)


def prompts(loaded: Loaded) -> list[list[int]]:
    """Tokens of all questions; the model sees their images from now on."""
    assert loaded.codec.vision is not None
    album = Album.of(loaded.codec.vision, PICTURES)
    see(loaded.model, Table(rows_of(loaded.model, album, ""), album.grids))
    content = [
        [
            part_of(album.placed(part)) if isinstance(part, int) else {"type": "text", "text": part}
            for part in parts
        ]
        for parts in ASKED
    ]
    return [loaded.codec.encode_prompt([{"role": "user", "content": parts}]) for parts in content]


def pixels(processor: Any, parts: list[Any]) -> dict[str, Any]:
    """What transformers takes for a question."""
    content = [
        {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in parts
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [PICTURES[part] for part in parts if isinstance(part, int)]
    return dict(processor(text=[text], images=images or None, return_tensors="pt"))


def test_rows_alone_and_packed_give_the_logits_of_pixels(seeing: tuple[Loaded, Any]) -> None:
    loaded, processor = seeing
    model, asked = loaded.model, prompts(loaded)
    with torch.no_grad():
        theirs = [model(**pixels(processor, parts)).logits[0] for parts in ASKED]
        alone = [model(input_ids=torch.tensor([ids])).logits[0] for ids in asked]
        flat = torch.tensor([[token for ids in asked for token in ids]])
        positions = torch.cat([torch.arange(len(ids)) for ids in asked])[None]
        with packing(model) as packs, segments([len(ids) for ids in asked]):
            assert packs
            packed = model(input_ids=flat, position_ids=positions, use_cache=False).logits[0]
    for found in (alone, packed.split([len(ids) for ids in asked])):
        for ours, wanted in zip(found, theirs, strict=True):
            assert float((ours - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_generation_padded_on_the_left_writes_what_pixels_give(seeing: tuple[Loaded, Any]) -> None:
    loaded, processor = seeing
    model, asked = loaded.model, prompts(loaded)
    width = max(map(len, asked))
    ids, mask = (
        torch.zeros(len(asked), width, dtype=torch.long),
        torch.zeros(len(asked), width, dtype=torch.long),
    )
    for row, tokens in enumerate(asked):
        ids[row, width - len(tokens) :], mask[row, width - len(tokens) :] = torch.tensor(tokens), 1
    greedy = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(input_ids=ids, attention_mask=mask, **greedy)[:, width:]
    for row, parts in enumerate(ASKED):
        inputs = pixels(processor, parts)
        expected = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
        assert found[row].tolist() == expected.tolist()


def test_places_matter(seeing: tuple[Loaded, Any]) -> None:
    """The same rows in a grid of another shape are something else to the model."""
    loaded, _ = seeing
    model, asked = loaded.model, prompts(loaded)
    assert loaded.codec.vision is not None
    album = Album.of(loaded.codec.vision, PICTURES)
    turned = {first: (across, down) for first, (down, across) in album.grids.items()}
    with torch.no_grad():
        before = model(input_ids=torch.tensor([asked[0]])).logits[0, -1]
        see(model, Table(rows_of(model, album, ""), turned))
        after = model(input_ids=torch.tensor([asked[0]])).logits[0, -1]
    assert float((before - after).abs().max()) > 1e-3 * float(before.abs().max())


def test_text_alone_is_computed_as_ever(seeing: tuple[Loaded, Any], tmp_path: Path) -> None:
    loaded, processor = seeing
    model, asked = loaded.model, prompts(loaded)
    plain = type(model).from_pretrained(processor.tokenizer.name_or_path).eval()
    with torch.no_grad():
        assert torch.equal(
            model(input_ids=torch.tensor([asked[1]])).logits, plain(input_ids=torch.tensor([asked[1]])).logits
        )


def test_a_beginning_in_the_cache_is_gone_on_from_more_than_once(seeing: tuple[Loaded, Any]) -> None:
    """As evaluation with examples in context does: each goes on from a copy of one cache, with images on both sides."""
    loaded, _ = seeing
    model, ids = loaded.model, prompts(loaded)[2]
    cut = ids.index(max(ids[: len(ids) // 2])) + 3  # behind the first image
    rests = [ids[cut:], ids[cut : cut + 4], ids[cut:]]
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([ids])).logits[0, cut:]
        cache = cache_in(model(input_ids=torch.tensor([ids[:cut]]), use_cache=True))
        for rest in rests:
            kept = copy.deepcopy(cache)
            given = {cache_argument(model): kept}
            found = model(input_ids=torch.tensor([rest]), use_cache=True, **given).logits[0]
            wanted = whole[: len(rest)]
            assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
