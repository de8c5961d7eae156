"""onnxruntime's CUDA provider itself, in a process with stub libraries in place of NVIDIA's: no GPU, and no kernel that computes.

Its newest package lacks `query_seqlens`, so attention is tried without: where a provider places a node depends on its types.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bundles import tiny_bundle
from support.libraries import printed_with
from support.tiny_models import build

from ptune import publish
from ptune.config.recipe import Backbone
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import Bundle

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

WHEEL = ["onnxruntime-gpu==1.31.1"]
BEGIN = """
import importlib.util, json, sys
from pathlib import Path
asked = json.loads(sys.stdin.read())
sys.path.insert(0, asked["tests"])
from support.cuda_stubs import preload
installed = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
preload(installed / "libonnxruntime_providers_cuda.so", Path(asked["stubs"]))
import onnxruntime
from ptune.engine import device_choice, half_attention, onnx_graph
onnx_graph.LEAST_ONNXRUNTIME = device_choice.LEAST_ONNXRUNTIME = (1, 31)
written = half_attention.written
def without(model):
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.resize_inputs(16)
    return written(model)
half_attention.written = without
from ptune.engine.device import Device
CUDA = Device("cuda", device_choice.PROVIDER, device_choice.OPTIONS, "stub")
"""
PLACE = """
placed = {}
for name, path in asked["graphs"].items():
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(CUDA.prepare(Path(path), options), options, providers=CUDA.providers)
    CUDA.check(session)
    found = placed[name] = {}
    for part in session.get_provider_graph_assignment_info():
        ops = found.setdefault(part.ep_name, [])
        ops += [node.op_type for node in part.get_nodes()]
print(json.dumps(placed))
"""
SERVE = """
device_choice.first_card = lambda: device_choice.Card("stub", 24 << 30)
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
options = {"device": "cuda", "kv_bytes": 1 << 22, "max_rows": 1, "threads": 1, "replay_golden": False}
engine = Engine.open(asked["bundle"], **options)
requests = [Request((5, 6, 7, 8), name, max_tokens=4) for name in ("base", "wide", "narrow", "base")]
answers = [len(answer) for answer in engine.generate_all(requests)]
first = next(iter(engine._cache.window(0, 1).values()))
print(json.dumps({"answers": answers, "memory": first.memory.device_name(), "words": engine.capacity()}))
engine.close()
"""
SHAPES = {"Concat", "Reshape", "Squeeze", "Unsqueeze", "Add", "Sub", "Mul", "Neg", "Gather", "Shape", "Max", "Slice"}  # fmt: skip
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def computed(script: str, folder: Path, **asked: Any) -> Any:
    stubs = folder / "stubs"
    stubs.mkdir()
    asked |= {"tests": str(Path(__file__).parents[1]), "stubs": str(stubs)}
    return printed_with(WHEEL, BEGIN + script, asked, folder)


@pytest.mark.slow
def test_where_the_provider_places_a_graphs_nodes(tmp_path: Path) -> None:
    """All that computes is the card's, layers that keep states too; left to the CPU are shapes, and int8's products."""
    backbone = Backbone(model=str(build(tmp_path / "model", "llama")), quantize="nf4")
    publish.export_backbone(backbone, tmp_path / "bundle", threads=1, profiles=("fp32", "nf4"))
    graphs = {name: Bundle.open(tmp_path / "bundle").graph_path(name) for name in ("fp32", "nf4")}
    for name, write in {"int4": write_int4, "int8": write_int8}.items():
        graphs[name] = tmp_path / name / "model.onnx"
        graphs[name].parent.mkdir()
        write(graphs["fp32"], graphs[name])
    for family in ("lfm2", "qwen3_5", "granitemoehybrid", "mamba"):
        graphs[family] = tiny_bundle(tmp_path / family, family)[2].graph_path("fp32")
    placed = computed(PLACE, tmp_path, graphs={name: str(path) for name, path in graphs.items()})
    products = {"int4": "MatMulNBits", "nf4": "MatMulBnb4", "granitemoehybrid": "LinearAttention"}
    for name, found in placed.items():
        left = {*found[CPU]} - SHAPES
        assert left == (
            {"MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear"} if name == "int8" else set()
        ), name
        assert {products.get(name, "MatMul"), *(["GroupQueryAttention"] if name != "mamba" else [])} <= {
            *found[CUDA]
        }


@pytest.mark.slow
def test_an_engine_goes_the_whole_way_through_the_provider(tiny: TinyBundle, tmp_path: Path) -> None:
    """It binds what lies on the card, carries adapters there and takes logits back; what kernels would compute is left out."""
    found = computed(SERVE, tmp_path, bundle=str(tiny.folder))
    assert found["answers"] == [4, 4, 4, 4]
    assert found["memory"] == "cuda"
    assert found["words"].endswith("GB of stub")
