"""An item's numbers are the same bits alone and in any company: of lengths, of adapters, of the base, in any profile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_images
from support.encoder_bundles import NAMES, SENTIMENT, VOCABULARY, build_encoder, encoder_bundle, peft_encoder

from ptune.config.recipe import Backbone
from ptune.engine.encoder import golden, session
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.onnx_graph import open_graph
from ptune.engine.options import LIGHT
from ptune.errors import ParityError
from ptune.export.encoder.int8 import write_int8
from ptune.export.encoder.parts import trace_body
from ptune.export.write import write_traced
from ptune.formats.bundle import BARE, BASE, FP32, INT8, Bundle
from ptune.formats.whole_write import read_json, sha256_of, write_json
from ptune.publish.encoder import Encoder
from ptune.publish.encoder_adapter import install_encoder
from ptune.publish.golden import record_golden
from ptune.publish.steps import enter_graph
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.torch_side import reference

LONGEST = 40
ADAPTERS = ("four", "wide", BASE)
RESNET: dict[str, Any] = {
    "hidden_sizes": [160, 64],
    "embedding_size": 32,
}  # products of 8 x 8 pixels and more than 256 terms


class NoCodec:
    def save(self, folder: Path) -> None:
        folder.mkdir()


def text_bundle(folder: Path) -> Bundle:
    """Rows of products that onnxruntime adds in blocks: wider than the 1,024 that it adds at once."""
    base = build_encoder(folder / "base", hidden_size=320, num_hidden_layers=1, intermediate_size=1100)
    four = peft_encoder(base, folder / "four", SENTIMENT, seed=1, r=4)
    wide = peft_encoder(base, folder / "wide", NAMES, seed=2, r=24, target_modules=["query", "dense"])
    bundle = encoder_bundle(folder / "bundle", base, {"four": four, "wide": wide})
    write_int8(bundle.graph_path(FP32), bundle.folder / "graphs" / INT8 / "model.onnx", bundle.encoder)
    enter_graph(bundle, INT8)
    return bundle


def image_bundle(folder: Path) -> Bundle:
    """A body with sockets, two adapters with heads, and the graph without sockets."""
    tiny_images.build(folder / "base", "resnet", **RESNET)
    spec = Backbone(model=str(folder / "base"))
    facts = Facts(
        task="image-classification",
        base="",
        labels=tiny_images.LABELS,
        problem="single",
        preprocessing={"size": [tiny_images.SIZE, tiny_images.SIZE]},
    )
    loaded = reference(spec, facts)
    facts = facts.model_copy(update={"base": loaded.identity.hash, "head": tuple(loaded.head)})
    size = (tiny_images.SIZE, tiny_images.SIZE)
    bundle = write_traced(folder / "bundle", trace_body(loaded.model, size), NoCodec(), loaded.identity)
    random = np.random.default_rng(0)
    inputs = [{"pixel_values": random.standard_normal((3, *size), np.float32)} for _ in range(5)]
    golden.save_inputs(inputs, bundle.folder)
    for seed, (name, rank) in enumerate({"four": 4, "wide": 24}.items()):
        torch.manual_seed(seed)
        targets = [socket.name for socket in bundle.encoder.sockets]
        config = peft.LoraConfig(r=rank, target_modules=targets, modules_to_save=list(loaded.head))
        adapted = peft.get_peft_model(reference(spec, facts).model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.1)
        adapted.save_pretrained(folder / name)
        facts.save(folder / name)
        install_encoder(bundle, folder / name, name, reference(spec, facts))
    record_golden(Encoder.of_bundle(bundle, spec), bundle, threads=1)
    return Bundle.open(bundle.folder)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(kind: str) -> Bundle:
        folder = tmp_path_factory.mktemp(kind)
        return text_bundle(folder) if kind == "bert" else image_bundle(folder)

    return made


@pytest.fixture(
    scope="module",
    params=[("bert", FP32, 1), ("bert", FP32, 2), ("bert", INT8, 1), ("bert", INT8, 2), ("resnet", FP32, 2)],
    ids=lambda one: "-".join(map(str, one)),
)  # fmt: skip
def engine(request: pytest.FixtureRequest, bundle_of: Any) -> Iterator[EncoderEngine]:
    kind, profile, threads = request.param
    opened = EncoderEngine.open(bundle_of(kind), profile=profile, threads=threads, replay_golden=False)
    with closing(opened) as engine:
        yield engine


def items_of_images(count: int, seed: int = 0) -> list[Item]:
    random, side = np.random.default_rng(seed), tiny_images.SIZE
    return [Item({"pixel_values": random.standard_normal((3, side, side), np.float32)}) for _ in range(count)]


def items_of(engine: EncoderEngine, jobs: list[tuple[int, str]], seed: int) -> list[Item]:
    if engine.signature.modality == "image":
        return [
            Item(one.inputs, name)
            for one, (_, name) in zip(items_of_images(len(jobs), seed), jobs, strict=True)
        ]
    random = np.random.default_rng(seed)
    return [Item({"input_ids": random.integers(5, len(VOCABULARY), length)}, name) for length, name in jobs]


@settings(max_examples=12, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, LONGEST), st.sampled_from(ADAPTERS)), min_size=2, max_size=9),
    seed=st.integers(0, 1000),
)
def test_each_row_is_what_it_is_alone(engine: EncoderEngine, jobs: list[tuple[int, str]], seed: int) -> None:
    items = items_of(engine, jobs, seed)
    together = engine.logits(items)
    for item, among in zip(items, together, strict=True):
        (alone,) = engine.logits([item])
        np.testing.assert_array_equal(among, alone)


def test_the_base_of_images_has_a_graph_of_its_own_which_is_replayed(bundle_of: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_of("resnet").folder, tmp_path / "bundle"))
    bundle = Bundle.open(folder)
    assert f"graphs/{FP32}/{BARE}" in bundle.manifest.graphs[FP32].files
    recorded = read_json(bundle.golden_path)
    cases = [case for case in recorded["cases"] if case["adapter"] == BASE]
    assert {case["adapter"] for case in recorded["cases"]} == {*ADAPTERS}
    with closing(EncoderEngine.open(folder, threads=1)):
        pass
    cases[0]["logits"][0] += 0.1
    write_json(bundle.golden_path, recorded)
    files = {**bundle.manifest.golden, "golden/golden.json": sha256_of(bundle.golden_path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": files}))
    with pytest.raises(ParityError, match="under 'base'"):
        EncoderEngine.open(folder, threads=1)


def test_heavy_weights_are_opened_once(bundle_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then base rows go through the graph with sockets, whose factors are empty."""
    bundle = bundle_of("resnet")
    item = items_of_images(1)[0]
    opened: list[str] = []

    def watched(path: Path, *rest: Any, **more: Any) -> Any:
        opened.append(path.name)
        return open_graph(path, *rest, **more)

    monkeypatch.setattr(session, "open_graph", watched)
    found = []
    for most in (LIGHT, 0):
        opened.clear()
        monkeypatch.setattr(session, "LIGHT", most)
        with closing(EncoderEngine.open(bundle, threads=1, replay_golden=False)) as engine:
            found += engine.logits([Item(item.inputs, BASE)])
        assert (BARE in opened) == (most > 0)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_too(pooling: str, tmp_path: Path) -> None:
    """A mean over padded tokens adds in another order."""
    base = build_encoder(tmp_path / "base", hidden_size=320, num_hidden_layers=1)
    spec = Backbone(model=str(base))
    settings = {"width": 320, "pooling": pooling, "normalize": True}
    facts = Facts(task="feature-extraction", base="", labels=(), problem="vector", embedding=settings)
    loaded = reference(spec, facts)
    loaded = replace(loaded, facts=facts.model_copy(update={"base": loaded.identity.hash}))
    bundle = write_traced(tmp_path / "bundle", trace_body(loaded.model), NoCodec(), loaded.identity)
    install_encoder(bundle, None, "vectors", loaded)
    lengths = [3, 17, 31, 33, 47, 18, 5, 31]
    random = np.random.default_rng(0)
    items = [Item({"input_ids": random.integers(5, len(VOCABULARY), one)}, "vectors") for one in lengths]
    with closing(EncoderEngine.open(bundle, threads=2, replay_golden=False)) as engine:
        for item, among in zip(items, engine.logits(items), strict=True):
            np.testing.assert_array_equal(among, engine.logits([item])[0])
