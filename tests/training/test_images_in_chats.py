"""Training on conversations with images: the same tokens and the same loss as transformers' own, resumed to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.tiny_images import picture
from support.tiny_vision import ROWS, TEMPLATE, build, picture_of, seen_conversations, write_rows
from transformers import AutoModelForImageTextToText, AutoProcessor

from ptune.backbone.image_rows import Table, rows_of, see
from ptune.backbone.load import load, load_codec
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.codecs.chat import ChatCodec
from ptune.codecs.vision import FIRST_ROW
from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.data.examples import dataset
from ptune.errors import BackboneError, DataError, PtuneError, RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

from .conftest import fingerprint, interrupt

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, and train.jsonl and test.jsonl about pictures beside them."""
    folder = tmp_path_factory.mktemp("seen")
    build(folder / "model")
    rows = seen_conversations(folder, 22)
    write_rows(folder / "train.jsonl", rows[:16])
    write_rows(folder / "test.jsonl", rows[16:])
    return folder


def recipe(folder: Path, **changes: Any) -> Recipe:
    made: dict[str, Any] = {
        "task": Chat(max_length=256),
        "backbone": Backbone(model=str(folder / "model"), dtype="float32"),
        "method": Lora(r=4, alpha=8),
        "data": Data(files=(folder / "train.jsonl",), test=(folder / "test.jsonl",)),
        "train": Train(max_steps=6, lr=5e-3, batch_size=4, micro_batch_tokens=128),
        "evaluate": Evaluate(answers=2, answer_tokens=6, in_context=2),
    }
    return Recipe(**{**made, **changes})


def data_of(folder: Path) -> tuple[ChatCodec, dataset.Dataset]:
    codec = load_codec(Backbone(model=str(folder / "model")))
    return codec, dataset.load(recipe(folder).data, Chat(max_length=256), codec, 0)


def test_tokens_are_those_of_the_models_own_processor(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder / "model")
    codec, data = data_of(folder)
    assert codec.vision is not None
    rows = [json.loads(line)["messages"] for line in (folder / "test.jsonl").read_text().splitlines()]
    shown = 0
    for row, example in zip(rows, data.test, strict=True):
        parts = row[0]["content"] if isinstance(row[0]["content"], list) else []
        pictures = [picture_of(folder, part) for part in parts if part["type"] == "image"]
        text = processor.apply_chat_template(row, tokenize=False)
        asked = processor(text=[text], images=pictures or None, return_tensors="pt")
        ids = asked["input_ids"][0].tolist()
        newline = ids[len(example.ids) :]  # behind the last turn, which is no target
        assert codec.vision.plain(example.ids) + newline == ids
        assert len(newline) <= 1
        assert not any(
            flag for token, flag in zip(example.ids, example.targets, strict=True) if token >= FIRST_ROW
        )
        for at, one in enumerate(pictures):
            own = codec.vision.preprocessing(one)
            assert np.abs(own - asked["pixel_values"][at].numpy()).mean() < 0.02
        shown += len(pictures)
    assert shown > 3


def test_the_loss_of_packed_rows_is_transformers_own(folder: Path) -> None:
    """Per example: pixels in, its own features among its own embeddings, against ours from a table, packed."""
    codec, data = data_of(folder)
    assert codec.vision is not None
    assert data.images is not None
    theirs = AutoModelForImageTextToText.from_pretrained(folder / "model").eval()
    expected = 0.0
    for example in data.train:
        first = [token for token in example.ids if token >= FIRST_ROW and (token - FIRST_ROW) % ROWS == 0]
        images = data.images.tiles[[(token - FIRST_ROW) // ROWS for token in first]]
        ids = torch.tensor([codec.vision.plain(example.ids)])
        seen = {}
        if first:
            seen["pixel_values"] = torch.from_numpy(codec.vision.preprocessing.normalised(images))
        with torch.no_grad():
            logits = theirs(input_ids=ids, **seen).logits[0, :-1].double()
        chosen = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        expected -= float(chosen[torch.tensor(example.targets[1:])].sum())
    loaded = load(Backbone(model=str(folder / "model"), dtype="float32"))
    see(loaded.model, Table(rows_of(loaded.model, data.images, "")))
    with packing(loaded.model) as packed, torch.no_grad():
        assert packed
        objective = NextTokenObjective(True, 256, torch.device("cpu"))
        batches = [*objective.batches([*data.train])]
        assert len(batches) < len(data.train)
        found = sum(float(objective.score(loaded.model, batch).loss) for batch in batches)
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_image_changes_what_is_said_about_it(folder: Path) -> None:
    codec, data = data_of(folder)
    assert codec.vision is not None
    assert data.images is not None
    model = load(Backbone(model=str(folder / "model"), dtype="float32")).model
    rows = rows_of(model, data.images, "")
    example = next(one for one in data.train if max(one.ids) >= FIRST_ROW)
    ids = torch.tensor([example.ids])
    see(model, Table(rows))
    with torch.no_grad():
        before = model(input_ids=ids).logits[0, -1]
        see(model, Table(np.ascontiguousarray(rows[::-1])))
        after = model(input_ids=ids).logits[0, -1]
    assert float((before - after).abs().max()) > 0.1


def test_a_run_learns_resumes_to_the_byte_and_is_evaluated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(folder)
    whole = train(made, tmp_path / "whole")
    assert whole.record().hops[0].passed
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert train(made, tmp_path / "cut").record().status == "interrupted"
    again = train(made, tmp_path / "cut", resume=True)
    assert fingerprint(again.adapter_path) == fingerprint(whole.adapter_path)
    names = _trained(whole.adapter_path)
    assert names
    assert all("language_model" in name for name in names)
    evaluation = evaluate(whole)
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    assert "[image]" in json.dumps(evaluation["answers"])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_packs_the_decoder_alone(kind: str, folder: Path, tmp_path: Path) -> None:
    """The tower is what it was, so that rows are those of the plain model's tower, bit for bit."""
    _, data = data_of(folder)
    assert data.images is not None
    spec = Backbone(model=str(folder / "model"), dtype="float32")
    plain, packed = load(spec), load(spec.model_copy(update={"quantize": kind}))
    np.testing.assert_array_equal(
        rows_of(packed.model, data.images, ""), rows_of(plain.model, data.images, "")
    )
    there = {
        name for name, layer in packed.model.named_modules() if isinstance(layer, Nf4Linear | Int8Linear)
    }
    assert there
    assert all("language_model" in name for name in there)
    run = train(recipe(folder, backbone=spec.model_copy(update={"quantize": kind})), tmp_path / "run")
    assert run.record().hops[0].passed
    evaluation = evaluate(run)
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]


def _trained(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        return [*file.keys()]


def test_an_image_that_changed_is_found_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data file is the same: the hash of the pixels is not."""
    rows = seen_conversations(tmp_path, 12)
    write_rows(tmp_path / "train.jsonl", rows)
    made = recipe(folder, data=Data(files=(tmp_path / "train.jsonl",)))
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        train(made, tmp_path / "run")

    picture(50, 40, seed=99).save(tmp_path / "picture1.png")
    with pytest.raises(PtuneError, match="images that the data names have changed"):
        train(made, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"type": "image", "path": "gone.png"}], r"messages\[0\].content\[0\]: there is no image"),
        ([{"type": "image", "path": "text.png"}], "not an image of a format"),
        ([{"type": "image", "path": "empty.png"}], "empty"),
        ([{"type": "image"}], "an image must be named"),
        ([{"type": "image", "first_row": FIRST_ROW}], "an image must be named"),
        ([{"type": "image", "url": "https://example.org/cat.png"}], "nothing is fetched"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}], "not valid base64"),
        ([{"type": "audio", "path": "a.wav"}], "of type 'audio'"),
    ],
)
def test_a_bad_image_is_named_with_its_line(
    folder: Path, tmp_path: Path, content: list[Any], told: str
) -> None:
    rows = seen_conversations(tmp_path, 4)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    rows.append([{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}, rows[0][1]])
    file = write_rows(tmp_path / "bad.jsonl", rows)
    codec = load_codec(Backbone(model=str(folder / "model")))
    with pytest.raises(DataError, match=told) as error:
        dataset.load(Data(files=(file,)), Chat(max_length=256), codec, 0)
    assert f"{file}" in str(error.value)
    assert "5" in str(error.value)


def test_too_many_image_tokens_are_counted(folder: Path) -> None:
    codec = load_codec(Backbone(model=str(folder / "model")))
    with pytest.raises(DataError, match=f"longer than 40 tokens .*; an image takes {ROWS}"):
        dataset.load(recipe(folder).data, Chat(max_length=40), codec, 0)


def test_an_image_in_an_answer_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = seen_conversations(tmp_path, 4)
    rows.append(
        [
            {"role": "user", "content": "Draw!"},
            {"role": "assistant", "content": [{"type": "image", "path": "picture0.png"}]},
        ]
    )
    file = write_rows(tmp_path / "bad.jsonl", rows)
    codec = load_codec(Backbone(model=str(folder / "model")))
    with pytest.raises(DataError, match="only messages of role user can"):
        dataset.load(Data(files=(file,)), Chat(max_length=256), codec, 0)


def test_what_is_not_trained_beside_images_is_refused(folder: Path, tmp_path: Path) -> None:
    for changes, told in (
        ({"method": Full()}, "trained by Lora"),
        ({"method": Lora(ends=("embedding",))}, "without the embedding"),
        ({"task": Preference()}, "sees images: use Chat"),
    ):
        with pytest.raises(RecipeError, match=told):
            train(recipe(folder, **changes), tmp_path / "run")
    for options in ({"keep_layers": (0,)}, {"new_tokens": ("<x>",)}):
        with pytest.raises(BackboneError, match="sees images: leave it out"):
            load_codec(Backbone(model=str(folder / "model"), **options))


def test_a_text_model_still_refuses_images(tmp_path: Path) -> None:
    tiny_models.build(tmp_path / "text")
    file = write_rows(tmp_path / "seen.jsonl", seen_conversations(tmp_path, 6))
    codec = load_codec(Backbone(model=str(tmp_path / "text")))
    with pytest.raises(DataError, match="reads only parts of type 'text'"):
        dataset.load(Data(files=(file,)), Chat(max_length=256), codec, 0)


def test_a_template_that_shows_no_images_is_refused(folder: Path, tmp_path: Path) -> None:
    build(tmp_path / "model", template=TEMPLATE.replace("<image>\n", ""))
    file = write_rows(tmp_path / "seen.jsonl", seen_conversations(tmp_path, 6))
    codec = load_codec(Backbone(model=str(tmp_path / "model")))
    with pytest.raises(DataError, match="shows 0 of 1 images"):
        dataset.load(Data(files=(file,)), Chat(max_length=256), codec, 0)
