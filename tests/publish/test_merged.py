"""Classifiers whose adapter is merged: what is served is what was trained, in float32 and in int8; what cannot be is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import transformers
from support import tiny_images
from support.classified import trained
from support.encoder_bundles import damage

import ptune
from ptune import publish
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine.encoder.engine import EncoderEngine
from ptune.errors import AdapterError, DataError, FormatError, ParityError, UsageError
from ptune.evaluation.classification.held_out import of_run
from ptune.export.vision import int8 as vision_int8
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.publish import encoder_merge, encoder_profiles
from ptune.tasks.classification.predictions import predictor
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.torch_side import merged

BOTH = ("fp32", "int8")
MERGED = "live adapter → merged"


def images_run(place: Path, name: str, **changes: object) -> Run:
    """A ResNet that has learnt to tell three brightnesses apart, surely enough for int8 to give the same answers."""
    if not (place / "images").is_dir():
        tiny_images.build(place / "resnet", "resnet")
        tiny_images.labelled_folder(place / "images", each=20)
    recipe = Recipe(
        name=name,
        task=ImageClassification(augmentation="none"),
        backbone=Backbone(model=str(place / "resnet")),
        method=Lora(r=8, alpha=16),
        data=Data(files=(place / "images",), validation_share=0.25),
        train=Train(max_steps=40, lr=1e-2, batch_size=15),
    )
    return train(recipe.model_copy(update=changes), place / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images and one of texts, and the merged bundle of each with both profiles."""
    folder = tmp_path_factory.mktemp("merged")
    images_run(folder, "clothes")
    trained(folder, "text", "mood", train=Train(max_steps=30, lr=1e-2, batch_size=16))
    for name in ("clothes", "mood"):
        out, run = folder / f"{name}_bundle", Run.open(folder / name)
        assert publish.export_run(run, out, name=name, merge=True, threads=1, profiles=BOTH).passed
    return folder


@pytest.mark.parametrize("name", ["clothes", "mood"])
def test_it_serves_what_was_trained(place: Path, name: str) -> None:
    run = Run.open(place / name)
    rows = of_run(run).rows[:12]
    expected = np.stack(predictor(run, "cpu")(rows, lambda _: None))
    given = [row.input.open() if name == "clothes" else row.input for row in rows]
    for profile, most in (("fp32", 1e-4), ("int8", 0.03 * np.abs(expected).max())):
        with closing(ptune.load(place / f"{name}_bundle", profile=profile, threads=1)) as model:
            found = np.stack(model.logits(given, name))
        np.testing.assert_allclose(found, expected, atol=most)
        np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", ["clothes", "mood"])
def test_every_hop_is_measured(place: Path, name: str) -> None:
    bundle = Bundle.open(place / f"{name}_bundle")
    record = bundle.adapter(name)
    assert [hop.name for hop in record.hops] == [
        "trained → reloaded", MERGED, "torch → ONNX, with its head", "ONNX → engine", "engine → server", "fp32 → int8",
    ]  # fmt: skip
    assert record.rank == 0
    assert not (bundle.adapter_path(name) / "adapter_config.json").exists()
    assert record.base == bundle.manifest.base.hash != Facts.of_run(Run.open(place / name)).base
    assert bundle.manifest.base.source == str(place / name / "merged")
    assert publish.verify(bundle.folder, threads=1).passed


def test_what_was_merged_is_a_plain_model(place: Path) -> None:
    run = Run.open(place / "clothes")
    row = of_run(run).rows[0]
    say = transformers.pipeline("image-classification", str(run.folder / "merged"))
    (expected,) = predictor(run, "cpu")([row], lambda _: None)
    best = say(row.input.open())[0]
    assert best["label"] == tiny_images.LABELS[expected.argmax()]
    assert best["score"] == pytest.approx((np.exp(expected) / np.exp(expected).sum()).max(), abs=1e-4)
    text = transformers.pipeline("text-classification", str(place / "mood" / "merged"))
    assert text("the room was lovely")[0]["label"] == "good"


def test_convolutions_fuse(place: Path, tmp_path: Path) -> None:
    """All that stands beside them in the file becomes part of them; at the end of a body one pair may be left."""
    bundle = Bundle.open(place / "clothes_bundle")
    assert bundle.encoder.sockets == ()
    kinds = {}
    for profile in BOTH:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / profile), 3
        onnxruntime.InferenceSession(bundle.graph_path(profile), options)
        fused = onnx.load(tmp_path / profile, load_external_data=False)
        kinds[profile] = Counter(node.op_type for node in fused.graph.node)
    written = onnx_ir.load(bundle.graph_path())
    convolutions = len(vision_int8.layers(written))
    assert Counter(node.op_type for node in written.graph)["Relu"] == 7
    assert kinds["int8"]["QLinearConv"] == convolutions
    assert kinds["int8"]["QLinearAdd"] == 1  # the last sum of two stays float32
    for found in kinds.values():
        assert not found["BatchNormalization"]
        assert found["Relu"] <= 1
        assert found["Add"] <= 1


def test_a_neighbour_changes_nothing(place: Path) -> None:
    """Not even the bits, however large the neighbour's values are."""
    bundle = Bundle.open(place / "clothes_bundle")
    session = onnxruntime.InferenceSession(bundle.graph_path("int8"))
    chance = np.random.default_rng(0)
    image, other = chance.standard_normal((2, 3, tiny_images.SIZE, tiny_images.SIZE)).astype(np.float32)
    found = []
    for rows in ([image], [image, other], [other * 1000, image], [image, *[other] * 6]):
        at = next(index for index, row in enumerate(rows) if row is image)
        feeds = {"pixel_values": np.stack(rows), "lora_mask": np.zeros((len(rows), 0), np.float32)}
        found.append(session.run(["hidden"], feeds)[0][at])
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


def test_nothing_can_be_added_to_it(place: Path) -> None:
    before = Bundle.open(place / "clothes_bundle").manifest
    with pytest.raises(AdapterError, match=r"takes no adapters: .*--merge"):
        publish.add(place / "clothes_bundle", place / "clothes" / "adapter", "again", threads=1)
    assert Bundle.open(place / "clothes_bundle").manifest == before
    with pytest.raises(AdapterError, match="another base"):  # texts keep their sockets: they cost nothing
        publish.add(place / "mood_bundle", place / "mood" / "adapter", "again", threads=1)


def test_int8_beside_adapters_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"clothes is a classifier of images .*add --merge"):
        publish.export_run(Run.open(place / "clothes"), tmp_path / "x", name="x", threads=1, profiles=BOTH)
    assert not (tmp_path / "x").exists()


def test_int8_of_a_body_that_was_trained_itself(place: Path, tmp_path: Path) -> None:
    """--merge changes nothing there: no adapter is left to merge."""
    run = images_run(place, "full", method=Full(), train=Train(max_steps=30, lr=3e-3, batch_size=15))
    proof = publish.export_run(run, tmp_path / "full", name="full", merge=True, threads=1, profiles=BOTH)
    assert proof.passed
    assert MERGED not in [hop.name for hop in proof.adapters["full"]]
    assert [*Bundle.open(tmp_path / "full").manifest.graphs] == [*BOTH]


def test_int8_that_answers_otherwise_is_left_out_and_the_rest_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights rounded to three steps instead of 127."""
    monkeypatch.setattr(vision_int8, "LARGEST", 1)
    monkeypatch.setattr(encoder_profiles, "KEPT", (0.0,))
    proof = publish.export_run(
        Run.open(place / "clothes"), tmp_path / "x", name="x", merge=True, threads=1, profiles=BOTH
    )
    assert re.search(r"fp32 → int8: top-1 .* limit is same answer: ≥ 99%", proof.refused["int8"])
    assert proof.passed
    assert [*Bundle.open(tmp_path / "x").manifest.graphs] == ["fp32"]


def test_a_merge_that_drifts_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(model: Any) -> Any:
        plain = merged(model)
        next(layer for layer in plain.modules() if hasattr(layer, "kernel_size")).weight.data *= 1.5
        return plain

    monkeypatch.setattr(encoder_merge, "merged", wrongly)
    run = Run.open(place / "clothes")
    before = sorted((run.folder / "merged").iterdir())
    with pytest.raises(ParityError, match=rf"{MERGED}: max .* export without --merge"):
        publish.export_run(run, tmp_path / "x", name="x", merge=True, threads=1)
    assert not (tmp_path / "x").exists()
    assert sorted((run.folder / "merged").iterdir()) == before


def test_its_held_images_are_checked(place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place / "clothes_bundle", tmp_path / "bundle"))
    damage(copy / "golden" / "held.npz")
    with pytest.raises(FormatError, match=r"held\.npz is damaged"):
        publish.verify(copy, threads=1)
    golden = json.loads((copy / "golden" / "int8.json").read_text())
    assert golden["tolerance"] > json.loads((copy / "golden" / "golden.json").read_text())["tolerance"]
    EncoderEngine.open(place / "clothes_bundle", profile="int8", threads=2).close()


def test_training_images_that_are_gone(place: Path, tmp_path: Path) -> None:
    run = images_run(tmp_path, "clothes", train=Train(max_steps=1))
    next((tmp_path / "images").rglob("*.png")).unlink()
    with pytest.raises(DataError):
        publish.export_run(run, tmp_path / "x", name="x", merge=True, threads=1, profiles=BOTH)
