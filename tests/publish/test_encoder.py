"""Runs of classification become bundles, a second task joins the first, and what does not fit is refused, all of it."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.classified import trained
from support.encoder_bundles import (
    NAMES,
    SENTIMENT,
    build_encoder,
    damage,
    encoder_bundle,
    peft_encoder,
    tiny,
    torch_logits,
    with_peft,
)

import ptune
from ptune import publish
from ptune.config.recipe import Train
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.encoder.golden import load_inputs
from ptune.errors import AdapterError, BackboneError, FormatError, ParityError, UsageError
from ptune.evaluation.classification.held_out import of_run
from ptune.export.encoder import int8 as encoder_int8
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import sha256_of
from ptune.methods.full import Full
from ptune.tasks.classification.predictions import predictor

FEW = Train(max_steps=4, lr=1e-2, batch_size=16)
SURE = Train(max_steps=30, lr=1e-2, batch_size=16)  # sure enough of its answers for int8 to give the same


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one encoder, one on its own weights, and the bundle of the first two."""
    folder = tmp_path_factory.mktemp("place")
    trained(folder, "text", "mood", train=SURE)
    trained(folder, "tokens", "names", train=SURE)
    both, run = ("fp32", "int8"), Run.open(folder / "mood")
    assert publish.export_run(run, folder / "bundle", name="mood", threads=1, profiles=both).passed
    publish.add(folder / "bundle", folder / "names" / "adapter", "names", threads=1)
    return folder


def test_a_bundle_says_what_it_is(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    assert bundle.manifest.task == "encoder"
    assert bundle.encoder.prefix == "bert."
    mood, names = bundle.adapter("mood"), bundle.adapter("names")
    assert (mood.task, mood.problem, mood.labels, mood.parity) == (
        "text-classification", "single", ("bad", "good"), "measured",
    )  # fmt: skip
    assert (names.task, names.problem, names.labels[0]) == ("token-classification", "tags", "O")
    assert mood.base == names.base == bundle.manifest.base.hash
    assert mood.hops[0].name == "trained → reloaded"
    assert publish.verify(place / "bundle", threads=1).passed


def test_it_serves_what_was_trained(place: Path) -> None:
    with closing(ptune.load(place / "bundle", threads=1)) as model:
        for name in ("mood", "names"):
            run = Run.open(place / name)
            rows = of_run(run).rows[:12]
            expected = predictor(run, "cpu")(rows, lambda _: None)
            found = model.logits([row.input for row in rows], name)
            for here, there in zip(found, expected, strict=True):
                np.testing.assert_allclose(here, there, atol=1e-4)


def test_int8_stands_beside_fp32(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    assert [*bundle.manifest.graphs] == ["fp32", "int8"]
    assert bundle.manifest.default_profile == "fp32"
    for name in ("mood", "names"):
        hop = bundle.adapter(name).hops[-1]
        assert (hop.name, hop.prompts) == ("fp32 → int8", 60)
        assert hop.top1 is not None
        assert hop.top1 >= 0.99
        assert hop.note.startswith("mean |Δp| 0.0")
    rows = [row.input for row in of_run(Run.open(place / "mood")).rows]
    said = {}
    for profile in ("fp32", "int8"):
        with closing(ptune.load(place / "bundle", profile=profile, threads=1)) as model:
            said[profile] = np.stack(model.logits(rows, "mood"))
    assert 1e-5 < np.abs(said["int8"] - said["fp32"]).max() < 0.5
    assert (said["int8"].argmax(-1) == said["fp32"].argmax(-1)).mean() >= 0.98


def test_each_profile_has_its_golden_vectors(place: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(place / "bundle", tmp_path / "bundle"))
    path = bundle.folder / "golden" / "int8.json"
    golden = json.loads(path.read_text())
    assert golden["cases"] != json.loads(bundle.golden_path.read_text())["cases"]
    golden["cases"][0]["logits"][0] += 1
    path.write_text(json.dumps(golden))
    files = {**bundle.manifest.golden, "golden/int8.json": sha256_of(path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": files}))
    with pytest.raises(ParityError, match="computes otherwise"):
        EncoderEngine.open(bundle, profile="int8", threads=1)
    EncoderEngine.open(bundle, threads=1).close()
    with pytest.raises(FormatError, match="no profile 'int4'"):
        EncoderEngine.open(bundle, profile="int4", threads=1)


def test_int8_that_answers_otherwise_is_left_out_and_the_rest_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded to five steps instead of 127."""
    monkeypatch.setattr(encoder_int8, "LARGEST", 2)
    run = Run.open(place / "mood")
    proof = publish.export_run(run, tmp_path / "bundle", name="mood", threads=1, profiles=("fp32", "int8"))
    assert re.search(
        r"fp32 → int8: top-1 .*mean \|Δp\|.* but the limit is same answer: ≥ 99%", proof.refused["int8"]
    )
    assert proof.passed
    bundle = Bundle.open(tmp_path / "bundle")
    assert [*bundle.manifest.graphs] == ["fp32"]
    assert "fp32 → int8" not in [hop.name for hop in bundle.adapter("mood").hops]
    assert not [*bundle.folder.rglob("*int8*"), *bundle.folder.rglob("held.npz")]
    assert bundle.adapter("mood").parity == "measured"
    EncoderEngine.open(bundle, threads=1).close()


def test_profiles_that_cannot_be(place: Path, tmp_path: Path) -> None:
    for profiles, words in ((("int8",), "fp32, which"), (("fp32", "int4"), "'fp32,int4'")):
        with pytest.raises(UsageError, match=words):
            publish.export_run(
                Run.open(place / "mood"), tmp_path / "x", name="mood", threads=1, profiles=profiles
            )


def test_weights_of_its_own(place: Path) -> None:
    trained(place, "text", "full", train=FEW, method=Full())
    out = place / "full_bundle"
    proof = publish.export_run(Run.open(place / "full"), out, name="full", threads=1)
    assert proof.passed
    assert [hop.name for hop in proof.adapters["full"]][:2] == [
        "trained → reloaded",
        "torch → ONNX, with its head",
    ]
    record = Bundle.open(out).adapter("full")
    assert (record.rank, record.labels) == (0, ("bad", "good"))
    assert publish.verify(out, threads=1).passed
    with pytest.raises(AdapterError, match="another base"):
        publish.add(out, place / "mood" / "adapter", "mood", threads=1)


def test_a_chat_adapter_has_no_place_in_it(place: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(place / "mood" / "adapter", tmp_path / "chat"))
    facts = json.loads((adapter / "ptune.json").read_text())
    (adapter / "ptune.json").write_text(json.dumps({**facts, "task": "chat"}))
    with pytest.raises(AdapterError, match="'chat'; this bundle is an encoder's"):
        publish.add(place / "bundle", adapter, "chat", threads=1)


def test_a_base_that_changed_is_refused(place: Path, tmp_path: Path) -> None:
    other = build_encoder(tmp_path / "other", "bert")
    with pytest.raises(BackboneError, match="is not the base"):
        publish.verify(
            tiny().bundle.folder, backbone=str(build_encoder(tmp_path / "seed", "bert", seed=5)), threads=1
        )
    assert publish.verify(
        tiny().bundle.folder, backbone=str(other), threads=1
    ).passed  # the same weights elsewhere


def test_verify_names_a_damaged_file(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))
    damage(copy / "adapters" / "mood" / "head.onnx")
    with pytest.raises(FormatError, match=r"head\.onnx is damaged"):
        publish.verify(copy, threads=1)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))


def test_plain_peft_folders_are_served(copy: Path, tmp_path: Path) -> None:
    """Without a note of ours: labels as transformers calls them."""
    adapter = peft_encoder(tiny().base, tmp_path / "foreign", SENTIMENT, seed=9, note=False)
    record = publish.add(copy, adapter, "foreign", threads=1)
    assert (record.task, record.labels) == ("text-classification", ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert (record.base, record.parity) == (None, "measured")
    (adapter / "adapter_config.json").write_text(
        (adapter / "adapter_config.json").read_text().replace('"SEQ_CLS"', "null")
    )
    with pytest.raises(AdapterError, match="does not say what it is for"):
        publish.add(copy, adapter, "again", threads=1)


def test_all_that_does_not_fit_is_in_one_message(copy: Path, tmp_path: Path) -> None:
    adapter = peft_encoder(tiny().base, tmp_path / "wrong", NAMES, seed=3, target_modules=["query", "key"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    body = "base_model.model.bert.encoder.layer"
    del tensors[f"{body}.0.attention.self.query.lora_A.weight"]
    tensors[f"{body}.1.attention.self.key.lora_B.weight"] = np.zeros((7, 4), np.float32)
    tensors[f"{body}.7.attention.self.key.lora_B.weight"] = np.zeros((32, 4), np.float32)
    tensors["base_model.model.classifier.weight"] = np.zeros((3, 32), np.float32)
    del tensors["base_model.model.classifier.bias"]
    save_file(tensors, file)
    before = Bundle.open(copy).manifest
    with pytest.raises(AdapterError) as caught:
        publish.add(copy, adapter, "wrong", threads=1)
    for words in (
        "lora_A is missing: bert.encoder.layer.0.attention.self.query",
        "lora_B is [7, 4], the base needs [32, 4]",
        "no linear layer of this name: bert.encoder.layer.7.attention.self.key",
        "a weight of its head is [3, 32], its labels need [5, 32]: classifier.weight",
        "lacks weights of its head",
        "classifier.bias",
    ):
        assert words in str(caught.value)
    assert Bundle.open(copy).manifest == before
    assert not Bundle.open(copy).adapter_path("wrong").exists()


def test_an_unfinished_run_is_refused(place: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(place / "mood", tmp_path / "mood"))
    run.write_record(run.record().model_copy(update={"status": "interrupted"}))
    with pytest.raises(UsageError, match="--resume"):
        publish.export_run(run, tmp_path / "b", name="x", threads=1)


@pytest.mark.parametrize("family", ["bert", "albert", "roberta", "llama"])
def test_unproved_a_base_is_not_read(family: str, tmp_path: Path) -> None:
    """Its config is enough where the adapter brings its whole head; where it does not, the base's own pooler is needed."""
    base = build_encoder(tmp_path / "base", family)
    folder = encoder_bundle(tmp_path / "bundle", base, {}).folder
    adapter = peft_encoder(base, tmp_path / "mood", SENTIMENT, seed=4)
    model, inputs = with_peft(base, adapter, SENTIMENT), load_inputs(folder)
    partly = peft_encoder(
        base, tmp_path / "partly", SENTIMENT, seed=5, modules_to_save=["classifier", "score"]
    )
    (base / "model.safetensors").unlink()
    record = publish.add(folder, adapter, "mood", prove_it=False, threads=1)
    assert (record.parity, record.rank) == ("unmeasured", 4)
    with closing(EncoderEngine.open(folder, threads=1)) as engine:
        found = engine.logits([Item(one, "mood") for one in inputs])
    for one, logits in zip(inputs, found, strict=True):
        np.testing.assert_allclose(logits, torch_logits(model, one), atol=1e-4)
    if getattr(model.get_base_model().base_model, "pooler", None) is not None:
        with pytest.raises(BackboneError):
            publish.add(folder, partly, "partly", prove_it=False, threads=1)
