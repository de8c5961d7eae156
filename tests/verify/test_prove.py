"""A bundle is proved through a real server, and one that drifts anywhere on the way is refused."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import peft_folder
from support.tiny_models import build

from ptune import publish
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Token
from ptune.errors import BackboneError, FormatError, ParityError, UsageError
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.whole_write import sha256_of, write_json
from ptune.publish import pipeline
from ptune.publish.decoder import Decoder
from ptune.publish.decoder_run import reference
from ptune.verify.decoder import probes as probing
from ptune.verify.decoder.prove import TorchSide, prove, torch_side
from ptune.verify.decoder.server import Continuation, _agreement
from ptune.verify.proof import Proof
from ptune.verify.server import hop


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an adapter and a bundle that `publish` has proved, server and all."""
    folder = tmp_path_factory.mktemp("published")
    base = build(folder / "model", "llama")
    adapter = peft_folder(base, folder / "adapter", spread=0.2)
    assert exported(base, "tuned", adapter, folder / "bundle").passed
    return folder


def exported(base: Path, name: str, adapter: Path, out: Path) -> Proof:
    """A pretrained model and an adapter that no run of ptune's trained."""
    model = replace(Decoder.of_backbone(Backbone(model=str(base))), adapters={name: adapter})
    return pipeline.export(model, out, threads=1)


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def test_every_hop_is_in_the_artefact(published: Path) -> None:
    bundle = Bundle.open(published / "bundle")
    assert [(hop.name, hop.limit) for hop in bundle.manifest.hops if not hop.form] == [
        ("torch → ONNX base", "max |Δ log p| ≤ 0.001"),
        ("torch → ONNX, random factors in every socket", "relative L2 of (adapter - base) ≤ 0.01"),
        ("ONNX → engine", "max |Δ log p| ≤ 0.0005"),
        ("fp32: alone → in company", "same tokens; the base's the same bits"),
        ("engine → server", "same tokens, max |Δ log p| ≤ 0.001"),
    ]
    record = bundle.adapter("tuned")
    assert record.parity == "measured"
    assert [(hop.name, hop.limit) for hop in record.hops if not hop.form] == [
        ("torch + peft → ONNX + adapter", "max |Δ log p| ≤ 0.001"),
        ("torch + peft → ONNX, (adapter − base)", "relative L2 of (adapter - base) ≤ 0.01"),
        ("ONNX → engine", "max |Δ log p| ≤ 0.0005"),
        ("engine → server", "same tokens, max |Δ log p| ≤ 0.001"),
    ]
    assert all(hop.prompts >= 16 for hop in (*bundle.manifest.hops, *record.hops))
    assert not list(published.glob(".*part"))


def test_the_adapters_files_are_untouched(published: Path) -> None:
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (published / "adapter" / file).read_bytes() == (
            published / "bundle/adapters/tuned" / file
        ).read_bytes()


def test_verify_measures_again(published: Path) -> None:
    proof = publish.verify(published / "bundle", threads=1)
    assert proof.passed
    assert set(proof.adapters) == {"tuned"}


def test_what_torch_computed_is_dropped_when_the_graph_was_compared_with_it(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[weakref.ref[object]] = []

    def recorded(*arguments: Any) -> TorchSide:
        side = torch_side(*arguments)
        computed.extend(weakref.ref(rows) for one in (side.base, side.everywhere) for rows in one.logprobs)
        return side

    def opened(*arguments: Any, **options: Any) -> Engine:
        alive.append(sum(one() is not None for one in computed))
        return own(*arguments, **options)

    own, alive = Engine.open, list[int]()
    monkeypatch.setattr("ptune.publish.decoder.torch_side", recorded)
    monkeypatch.setattr(Engine, "open", opened)
    assert publish.verify(published / "bundle", threads=1).passed
    assert len(computed) == 32
    assert {*alive} == {0}


def test_an_existing_bundle_is_not_replaced_unasked(published: Path) -> None:
    with pytest.raises(UsageError, match="--force"):
        publish.export_backbone(Backbone(model=str(published / "model")), published / "bundle", threads=1)


def test_force_replaces_bundles_only(published: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle"):
        publish.export_backbone(
            Backbone(model=str(published / "model")), published / "model", force=True, threads=1
        )
    assert (published / "model" / "config.json").is_file()


def test_a_drifting_graph_is_refused(copy: Path) -> None:
    bundle, loaded = Bundle.open(copy / "bundle"), reference(Backbone(model=str(copy / "model")))
    weights = bundle.graph_path().with_name("model.onnx.data")
    values = np.fromfile(weights, np.float32)
    values[: len(values) // 2] *= 1.02
    values.tofile(weights)
    files = {**bundle.manifest.graphs["fp32"].files, "graphs/fp32/model.onnx.data": sha256_of(weights)}
    graph = bundle.manifest.graphs["fp32"].model_copy(update={"files": files})
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": {"fp32": graph}}))
    torch = torch_side(bundle, loaded.model, {}, probing.load(bundle.folder))
    proof = prove(bundle, torch, threads=1, server=False)
    assert not proof.passed
    with pytest.raises(ParityError, match=r"torch → ONNX base: .* but the limit is"):
        publish.refuse_drift(proof)
    with pytest.raises(ParityError, match="computes otherwise"):
        Engine.open(bundle, threads=1)


def test_another_adapter_than_the_one_trained_is_refused(copy: Path) -> None:
    """What the engine loads is compared with what peft loads: swap the files behind its back."""
    other = peft_folder(copy / "model", copy / "other", seed=9, spread=0.2)
    bundle, loaded = Bundle.open(copy / "bundle"), reference(Backbone(model=str(copy / "model")))
    torch = torch_side(bundle, loaded.model, {"tuned": other}, probing.load(bundle.folder))
    proof = prove(bundle, torch, threads=1, server=False)
    failed = [hop.name for hop in proof.adapters["tuned"] if not hop.passed]
    assert failed == ["ONNX → engine"]


def test_a_dead_adapter_is_refused_and_leaves_nothing(published: Path, tmp_path: Path) -> None:
    dead = peft_folder(published / "model", tmp_path / "dead", spread=0.0)
    with pytest.raises(ParityError, match="dead"):
        exported(published / "model", "dead", dead, tmp_path / "b")
    assert not list(tmp_path.glob("*b*"))


@pytest.mark.parametrize(
    "file", ["graphs/fp32/model.onnx.data", "codec/tokenizer.json", "golden/golden.json"]
)
def test_a_damaged_file_is_named(file: str, copy: Path) -> None:
    path = copy / "bundle" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=path.name):
        publish.verify(copy / "bundle", threads=1)


def test_another_base_is_refused(copy: Path) -> None:
    build(copy / "model", "llama", seed=1)
    with pytest.raises(BackboneError, match="is not the base"):
        publish.verify(copy / "bundle", backbone=str(copy / "model"), threads=1)


def test_add_proves_and_rolls_back(copy: Path) -> None:
    second = peft_folder(copy / "model", copy / "second", seed=5, spread=0.2, r=2, use_rslora=True)
    record = publish.add(copy / "bundle", second, "second", threads=1)
    assert (record.parity, record.rank) == ("measured", 2)
    dead = peft_folder(copy / "model", copy / "dead", spread=0.0)
    before = Bundle.open(copy / "bundle").manifest
    with pytest.raises(ParityError, match="dead"):
        publish.add(copy / "bundle", dead, "dead", threads=1)
    assert Bundle.open(copy / "bundle").manifest == before
    assert not (copy / "bundle/adapters/dead").exists()
    for name in (BASE, "second", "../x", ""):
        with pytest.raises(UsageError):
            publish.add(copy / "bundle", second, name, threads=1)


def test_golden_vectors_that_differ_stop_the_engine(copy: Path) -> None:
    bundle = Bundle.open(copy / "bundle")
    golden = json.loads(bundle.golden_path.read_text())
    golden["cases"][0]["logprobs"][0][0] += 0.01
    write_json(bundle.golden_path, golden)
    files = {**bundle.manifest.golden, "golden/golden.json": sha256_of(bundle.golden_path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": files}))
    with pytest.raises(ParityError, match="computes otherwise"):
        Engine.open(bundle, threads=1, kernels="exact")


def test_a_log_probability_over_http_that_is_no_number_is_no_agreement() -> None:
    def served(logprob: float) -> Hop:
        said = Continuation(BASE, (1, 2), [Token(7, -0.5, ((7, -0.5), (8, -2.0)))])
        return hop([_agreement(said, [(7, logprob)])], "tokens")

    assert served(-0.5).passed
    assert not served(float("nan")).passed
