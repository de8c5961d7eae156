"""Golden vectors: recorded here they replay here, and a graph that computes otherwise is found out."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.golden import record, replay
from ptune.errors import FormatError, ParityError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import sha256_of, write_json

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


PROMPTS = [[5, 90, 400, 17, 230], [300, 301]]


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    opened = Engine.open(tiny.folder, threads=1, replay_golden=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def golden(engine: Engine) -> dict[str, Any]:
    return json.loads(json.dumps(record(engine, PROMPTS, ["base", "wide", "narrow"])))


def test_record_holds_what_transformers_computes(tiny: TinyBundle, golden: dict[str, Any]) -> None:
    assert [(case["adapter"], case["ids"]) for case in golden["cases"]] == [
        (adapter, ids) for adapter in ("base", "wide", "narrow") for ids in PROMPTS
    ]
    for case in golden["cases"]:
        assert case["greedy"] == tiny.greedy(case["ids"], case["adapter"], 8)
        logits = tiny.logits(case["ids"] + case["greedy"], case["adapter"]).astype(np.float64)
        logprobs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[case["positions"]]
        assert case["top"] == np.argsort(-logprobs, axis=-1)[:, :5].tolist()
        np.testing.assert_allclose(case["logprobs"], -np.sort(-logprobs, axis=-1)[:, :5], atol=3e-4)


def test_replay_here_agrees(engine: Engine, golden: dict[str, Any]) -> None:
    assert replay(engine, golden) < 1e-5


def test_log_probability_beyond_the_tolerance_names_the_case(engine: Engine, golden: dict[str, Any]) -> None:
    changed = copy.deepcopy(golden)
    changed["cases"][3]["logprobs"][2][1] += 0.0015
    with pytest.raises(
        ParityError, match=r"under 'wide', after the prompt \[300, 301\], a log-probability is off by 0\.0015"
    ):
        replay(engine, changed)
    changed["tolerance"] = 0.002
    assert replay(engine, changed) == pytest.approx(0.0015, abs=1e-4)


def test_greedy_token_may_differ_only_at_a_tie(engine: Engine, golden: dict[str, Any]) -> None:
    changed = copy.deepcopy(golden)
    changed["cases"][0]["greedy"][-1] += 1  # its own logits are not among those compared
    with pytest.raises(ParityError, match="greedy token 8 is"):
        replay(engine, changed)
    best = changed["cases"][0]["logprobs"][-1]
    changed["cases"][0]["logprobs"][-1] = [best[0], best[0] - 1e-6, *best[2:]]
    changed["tolerance"] = 100.0  # the second log-probability is made up, so the worst difference is large
    replay(engine, changed)


def test_adapter_that_is_gone_is_left_out(engine: Engine, golden: dict[str, Any]) -> None:
    changed = copy.deepcopy(golden)
    changed["cases"][2]["adapter"] = "gone"
    assert replay(engine, changed) < 1e-5


def test_bundle_whose_graph_computes_otherwise_does_not_open(
    tiny: TinyBundle, golden: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny.folder, tmp_path / "bundle")
    bundle = Bundle.open(folder)
    write_json(bundle.golden_path, golden)
    recorded = bundle.manifest.model_copy(
        update={"golden": {"golden/golden.json": sha256_of(bundle.golden_path)}}
    )
    bundle.write_manifest(recorded)
    Engine.open(folder, threads=1).close()

    graph = onnx.load(bundle.graph_path())
    [head] = [
        weight for weight in graph.graph.initializer if 600 in weight.dims and "embed" not in weight.name
    ]
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.01), head.name))
    onnx.save(graph, bundle.graph_path())
    with pytest.raises(FormatError, match=r"model\.onnx is damaged"):
        Engine.open(folder, threads=1)
    fp32 = recorded.graphs["fp32"].model_copy(
        update={"files": {"graphs/fp32/model.onnx": sha256_of(bundle.graph_path())}}
    )
    bundle.write_manifest(recorded.model_copy(update={"graphs": {"fp32": fp32}}))
    with pytest.raises(ParityError, match="this machine computes otherwise"):
        Engine.open(folder, threads=1)
