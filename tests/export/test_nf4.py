"""A graph on the bytes of an nf4 base: they are bitsandbytes' own, and the bundle says what float32 says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from hypothesis import given
from hypothesis import strategies as st
from support import own_memory
from support.bundles import peft_folder
from support.tiny_models import build

from ptune import publish
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.errors import BackboneError, UsageError
from ptune.export import write
from ptune.export.decoder.nf4 import BLOCK, CODE, blocks_of
from ptune.formats.bundle import Bundle
from ptune.verify.decoder import profile

BOTH = ("fp32", "nf4")
RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(3, 64), (24, 192), (7, 320)])
def test_they_are_the_bytes_of_bitsandbytes(shape: tuple[int, int], nested: bool) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK, compress_statistics=nested)
    floats = dequantize_4bit(packed, state).numpy()
    blocks = blocks_of(floats)
    assert blocks is not None
    own = packed.numpy().reshape(-1)
    np.testing.assert_array_equal(blocks.q.reshape(-1), np.stack([own >> 4, own & 15], axis=-1).reshape(-1))
    np.testing.assert_array_equal(CODE[blocks.q] * blocks.absmax[:, None], floats.reshape(-1, BLOCK))


@given(
    st.lists(st.integers(0, 15), min_size=BLOCK, max_size=BLOCK),
    st.floats(2**-20, 1024, width=32),
    st.sampled_from([0, 15]),
)
def test_every_block_is_found_again(codes: list[int], scale: float, largest: int) -> None:
    q = np.array([largest, *codes[1:]], np.uint8)
    weight = (CODE[q] * np.float32(scale))[None]
    blocks = blocks_of(weight)
    assert blocks is not None
    np.testing.assert_array_equal(CODE[blocks.q] * blocks.absmax[:, None], weight)


WRITE = """
import numpy as np, onnx_ir
from pathlib import Path
from ptune.export.decoder.nf4 import CODE, write_nf4
from ptune.export.rewrite import lazily

count, width = map(int, sys.argv[2:])

def weight(number):
    random = np.random.default_rng(number)
    values = CODE[random.integers(0, 16, (width, width))].reshape(-1, 64)
    values[:, 0] = 1
    return (values * random.random((len(values), 1), np.float32)).reshape(width, width).T

x = start = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["n", width])
weights, nodes = [], []
for number in range(count):
    weights.append(lazily(f"w{number}", [width, width], lambda number=number: weight(number)))
    nodes.append(onnx_ir.node("MatMul", [x, weights[-1]]))
    (x,) = nodes[-1].outputs
    x.shape, x.dtype = start.shape, start.dtype
graph = onnx_ir.Graph([start], [x], nodes=nodes, initializers=weights, opset_imports={"": 21, "com.microsoft": 1})
with measured():
    write_nf4(onnx_ir.Model(graph, ir_version=10), Path(sys.argv[1]) / "model.onnx")
"""


def test_memory_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    count, width = 64, 1024
    gained = own_memory.gained(WRITE, tmp_path, count, width)
    written = (tmp_path / "model.onnx.data").stat().st_size
    assert written == pytest.approx(count * width**2 * 0.5625, rel=0.01)
    assert gained < 6 * 4 * width**2 < 0.7 * written
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_other_weights_have_none() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    assert blocks_of(weight) is None
    assert blocks_of(weight[:, :63]) is None
    zeros = blocks_of(np.zeros((1, 64), np.float32))
    assert zeros is not None
    assert not zeros.absmax.any()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nf4")
    backbone = Backbone(model=str(build(folder / "model", "llama")), quantize="nf4")
    proof = publish.export_backbone(backbone, folder / "bundle", threads=1, profiles=BOTH)
    assert proof.passed
    adapter = peft_folder(folder / "model", folder / "adapter", r=2, spread=0.2)
    publish.add(folder / "bundle", adapter, "tuned", threads=1)
    return folder


def test_a_bundle_of_an_nf4_base_is_smaller_and_says_the_same(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    hops = {hop.name: hop for hop in bundle.manifest.hops}
    assert hops["fp32 → nf4"].limit == "max |Δ log p| ≤ 0.0005"
    assert hops["nf4: alone → in company"].note.endswith("the base's moved by 0")
    assert "fp32 → nf4" in {hop.name for hop in bundle.adapter("tuned").hops}
    graphs = {name: onnx_ir.load(bundle.graph_path(name)) for name in BOTH}
    held = {
        name: sum(one.const_value.nbytes for one in graph.graph.initializers.values() if one.const_value)
        for name, graph in graphs.items()
    }
    packed = [one for one in graphs["nf4"].graph if one.op_type == "MatMulBnb4"]
    saved = sum(one.attributes["K"].as_int() * one.attributes["N"].as_int() for one in packed)
    assert len(packed) >= 8
    assert held["fp32"] - held["nf4"] == pytest.approx(saved * (4 - 0.5 - 4 / BLOCK), rel=0.01)
    said = []
    for name in BOTH:
        with closing(Engine.open(bundle, profile=name, threads=1)) as engine:  # golden vectors are replayed
            said.append(engine.logits([[5, 6, 7, 8]], ["tuned"])[0])
    assert 0 <= np.abs(said[0] - said[1]).max() < 1e-4


def test_a_base_that_is_not_in_nf4_is_refused(place: Path, tmp_path: Path) -> None:
    backbone = Backbone(model=str(place / "model"))
    with pytest.raises(BackboneError, match="no weight that came out of nf4"):
        publish.export_backbone(backbone, tmp_path / "bundle", threads=1, profiles=BOTH)
    assert not (tmp_path / "bundle").exists()


def test_without_fp32_nf4_is_what_is_proved(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nf4 and int8 alone: against torch, with an adapter added later, verified, and no float32 graph left on disk."""
    monkeypatch.setattr(profile, "PROFILE_TOP1", RANDOM_TOP1)
    backbone = Backbone(model=str(place / "model"), quantize="nf4")
    proof = publish.export_backbone(backbone, tmp_path / "bundle", threads=1, profiles=("nf4", "int8"))
    assert proof.passed
    bundle = Bundle.open(tmp_path / "bundle")
    assert ({*bundle.manifest.graphs}, bundle.manifest.default_profile) == ({"nf4", "int8"}, "nf4")
    assert {path.name for path in (bundle.folder / "graphs").iterdir()} == {"nf4", "int8"}
    names = [hop.name for hop in bundle.manifest.hops]
    assert {"torch → ONNX base", "ONNX → engine", "engine → server", "nf4 → int8"} <= {*names}
    assert {"nf4: alone → in company", "int8: alone → in company"} <= {*names}
    publish.add(bundle.folder, place / "adapter", "tuned", threads=1)
    hops = {hop.name: hop for hop in Bundle.open(bundle.folder).adapter("tuned").hops}
    assert {"torch + peft → ONNX + adapter", "ONNX → engine", "engine → server", "nf4 → int8"} <= {*hops}
    assert publish.verify(bundle.folder, threads=1).passed


def test_nf4_alone_never_writes_float32(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its weights are those that are made of a float32 graph."""
    monkeypatch.setattr(profile, "PROFILE_TOP1", RANDOM_TOP1)
    backbone = Backbone(model=str(place / "model"), quantize="nf4")
    publish.export_backbone(backbone, tmp_path / "both", threads=1, profiles=("nf4", "int8"))
    monkeypatch.setattr(write, "save", None)
    assert publish.export_backbone(backbone, tmp_path / "alone", threads=1, profiles=("nf4",)).passed
    both, alone = (Bundle.open(tmp_path / name).manifest for name in ("both", "alone"))
    assert ({*alone.graphs}, alone.default_profile) == ({"nf4"}, "nf4")
    assert alone.graphs["nf4"].least_tokens == both.graphs["nf4"].least_tokens
    weights = "graphs/nf4/model.onnx.data"
    assert alone.graphs["nf4"].files[weights] == both.graphs["nf4"].files[weights]


@pytest.mark.parametrize(
    ("profiles", "message"), [(("int8",), "nf4"), (("int4", "int8"), "nf4"), (("nf8",), "fp32")]
)
def test_one_of_both_is_what_others_are_compared_with(
    profiles: tuple[str, ...], message: str, place: Path, tmp_path: Path
) -> None:
    backbone = Backbone(model=str(place / "model"), quantize="nf4")
    with pytest.raises(UsageError, match=message):
        publish.export_backbone(backbone, tmp_path / "bundle", threads=1, profiles=profiles)


def test_a_base_that_is_not_in_nf4_has_no_such_reference(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no weight that came out of nf4"):
        publish.export_backbone(
            Backbone(model=str(place / "model")), tmp_path / "bundle", threads=1, profiles=("nf4",)
        )
    assert not (tmp_path / "bundle").exists()
