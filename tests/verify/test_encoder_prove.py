"""The proof of an encoder's bundle passes where everything is right, and fails for each kind of fault."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from support.encoder_bundles import tiny

from ptune.config.recipe import Backbone
from ptune.engine.encoder.golden import load_inputs
from ptune.formats.bundle import Bundle, hashes
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.compare import compare_hidden, compare_said
from ptune.verify.encoder.prove import prove_encoder
from ptune.verify.encoder.torch_side import reference
from ptune.verify.proof import Proof


@pytest.fixture
def copy(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))


def proof(bundle: Bundle, *names: str, server: bool = False) -> Proof:
    spec = Backbone(model=str(tiny().base))
    references = {
        name: partial(reference, spec, Facts.open(bundle.adapter_path(name)))
        for name in names or bundle.manifest.adapters
    }
    return prove_encoder(bundle, references, load_inputs(bundle.folder), threads=1, server=server)


def test_every_hop_is_measured() -> None:
    found = proof(tiny().bundle, server=True)
    assert found.passed
    assert [hop.name for hop in found.base] == [
        "torch → ONNX base",
        "torch → ONNX, random factors in every socket",
        "ONNX → engine",
    ]
    for name, positions in (("mood", 16), ("names", 125)):
        hops = found.adapters[name]
        assert [hop.name for hop in hops] == [
            "torch + peft → ONNX + adapter",
            "torch + peft → ONNX, (adapter − base)",
            "ONNX → engine",
            "engine → server",
        ]
        assert hops[0].max_abs_logprob is not None
        assert hops[0].max_abs_logprob < 1e-4
        assert hops[0].top1 == 1
        assert hops[0].positions == positions
        assert hops[1].liveness is not None
        assert hops[1].liveness < 1e-3


def rewrite(bundle: Bundle, file: str) -> None:
    """Lets the manifest vouch for a file that was changed: the numbers alone can tell."""
    from ptune.engine.adapters.folder import write_record
    from ptune.formats.whole_write import sha256_of

    _, name, inner = file.split("/")
    record = bundle.adapter(name)
    files = {**record.files, inner: sha256_of(bundle.folder / file)}
    write_record(bundle, record.model_copy(update={"files": files}))


def test_another_head_is_found_out(copy: Bundle) -> None:
    file = "adapters/mood/head.onnx"
    head = onnx.load(copy.folder / file)
    bias = next(tensor for tensor in head.graph.initializer if tensor.dims == [3])
    bias.CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(bias) + np.array([0, 0.01, 0], np.float32), bias.name
        )
    )
    onnx.save(head, copy.folder / file)
    rewrite(copy, file)
    found = proof(copy, "mood")
    assert not found.passed
    assert not found.adapters["mood"][0].passed
    assert all(hop.passed for hop in found.base)


def test_a_silent_adapter_is_found_out(copy: Bundle) -> None:
    """PEFT's file says something, peft itself is asked, and the engine does otherwise."""
    file = "adapters/names/adapter_model.safetensors"
    tensors = load_file(copy.folder / file)
    dead = {name: tensor * (0 if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(dead, copy.folder / file)
    rewrite(copy, file)
    found = proof(copy, "names")
    failed = [hop for hop in found.hops if not hop.passed]
    assert any("dead" in hop.note for hop in failed)


def test_a_socket_that_ignores_its_adapter_is_found_out(copy: Bundle) -> None:
    path = copy.graph_path()
    graph = onnx.load(path, load_external_data=False)
    node = next(
        node
        for node in graph.graph.node
        if any(name.endswith("layer.1.output.dense.B") for name in node.input)
    )
    node.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    onnx.save(graph, path)
    files = hashes(copy.folder, "graphs/fp32")
    graphs = {"fp32": copy.manifest.graphs["fp32"].model_copy(update={"files": files})}
    copy.write_manifest(copy.manifest.model_copy(update={"graphs": graphs}))
    found = proof(copy, "mood")
    assert found.base[0].passed
    assert not found.base[1].passed


@pytest.mark.parametrize("problem", ["single", "multi", "regression", "tags"])
def test_what_is_compared(problem: str) -> None:
    random = np.random.default_rng(0)
    there = [random.standard_normal((4, 3) if problem == "tags" else 3).astype(np.float32) for _ in range(5)]
    assert compare_said("same", problem, there, there).passed  # type: ignore[arg-type]
    shifted = [values + np.float32(0.5) for values in there]
    means_nothing = problem in ("single", "tags")
    assert compare_said("shift", problem, there, shifted).passed == means_nothing  # type: ignore[arg-type]
    wrong = [values.copy() for values in there]
    wrong[-1][..., 0] += 0.01
    assert not compare_said("off", problem, there, wrong).passed  # type: ignore[arg-type]


def test_hidden_states_that_are_not_numbers_do_not_pass() -> None:
    there = [np.ones((3, 4), np.float32)]
    assert compare_hidden("same", there, there).passed
    here = [np.full((3, 4), np.nan, np.float32)]
    assert not compare_hidden("nan", there, here).passed
