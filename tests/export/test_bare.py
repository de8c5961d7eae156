"""The graph without sockets says the same bits as the one with them, and has no weights of its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from bundles import peft_folder, tiny_bundle
from tiny_models import VOCAB

from ptune.engine import engine as engines
from ptune.engine.adapter_folder import install
from ptune.engine.engine import Engine
from ptune.export.bare import write_bare
from ptune.export.int8 import write_int8
from ptune.formats.bundle import BARE, BASE, FLOAT


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "opt", "gemma2", "olmo2"])
def test_the_same_bits(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _, bundle = tiny_bundle(tmp_path, family)
    install(bundle, peft_folder(base, tmp_path / "four", spread=0.2), "four")
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (30, 17)]
    with closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        assert engine._step._bare is not None
        bare = engine.logits(ids, [BASE, BASE])
        mixed = engine.logits(ids, [BASE, "four"])
    monkeypatch.setattr(engines, "LIGHT", 0)
    with closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        assert engine._step._bare is None
        whole = engine.logits(ids, [BASE, BASE])
    assert all(np.array_equal(one, other) for one, other in zip(bare, whole, strict=True))
    assert np.array_equal(mixed[0], bare[0])
    assert not np.array_equal(mixed[1], bare[1])


def test_it_has_no_weights_and_no_sockets(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    write_int8(bundle.graph_path(FLOAT), tmp_path / "int8" / "model.onnx")
    for path in (bundle.graph_path(FLOAT), tmp_path / "int8" / "model.onnx"):
        bare = write_bare(path, bundle.decoder)
        assert bare is not None
        assert bare.name == BARE
        assert sorted(file.name for file in path.parent.iterdir()) == [BARE, "model.onnx", "model.onnx.data"]
        graph, whole = onnx_ir.load(bare).graph, onnx_ir.load(path).graph
        assert {value.name for value in whole.inputs} - {value.name for value in graph.inputs} == {
            *bundle.decoder.factor_names()
        }
        assert len(whole) - len(graph) == 4 * len(bundle.decoder.sockets)
    assert f"graphs/fp32/{BARE}" in bundle.manifest.graphs["fp32"].files
