"""Weights stream from disk into the graph: memory holds the largest tensor and little more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from support.bundles import tiny_bundle
from support.tiny_models import build
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from ptune.errors import BackboneError
from ptune.export.decoder.trace import trace
from ptune.export.weights import FolderWeights, ModelWeights, attach, save

EXPORT = """
import resource, sys
from pathlib import Path
from transformers import AutoConfig
from ptune.export.decoder.trace import trace
from ptune.export.weights import FolderWeights, ModelWeights, attach, save, save
folder, out = map(Path, sys.argv[1:])
traced = trace(AutoConfig.from_pretrained(folder))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
attach(traced, FolderWeights(folder))
save(traced, out)
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def seven_b_shaped(folder: Path, layers: int) -> int:
    """Writes Llama-2-7B's shapes with fewer layers, bfloat16, a file a layer. Returns the float32 bytes in MiB."""
    config = LlamaConfig(num_hidden_layers=layers)
    config.save_pretrained(folder)
    width, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
    }
    shapes |= {
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
    }
    shapes |= {
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    index: dict[str, str] = {}
    parts = [
        {f"model.layers.{i}.{name}.weight": shape for name, shape in shapes.items()} for i in range(layers)
    ]
    ends = {
        "model.embed_tokens.weight": (vocab, width),
        "lm_head.weight": (vocab, width),
        "model.norm.weight": (width,),
    }
    total = 0
    for number, part in enumerate([ends, *parts]):
        file = f"model-{number:05d}.safetensors"
        save_file(
            {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in part.items()}, folder / file
        )
        index |= dict.fromkeys(part, file)
        total += sum(4 * torch.Size(shape).numel() for shape in part.values())
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {index!r}}}'.replace("'", '"'))
    return total >> 20


@pytest.mark.slow
def test_a_7b_shaped_model_exports_in_little_memory(tmp_path: Path) -> None:
    """Eight of its 32 layers: 7.4 GiB of float32 weights. What is held does not grow with the number of layers."""
    total_mib = seven_b_shaped(tmp_path / "model", 8)
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "model"), str(tmp_path / "out" / "model.onnx")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    peak_mib = int(printed[-1])
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >> 20 >= total_mib - 1
    largest_mib = 4 * 32000 * 4096 >> 20
    assert peak_mib < 2048 + largest_mib, (peak_mib, total_mib)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2"])
def test_streamed_weights_are_the_models(family: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "model", family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, weights in (
        ("folder", FolderWeights(folder, model.base_model_prefix)),
        ("model", ModelWeights(model)),
    ):
        traced = trace(model.config)
        attach(traced, weights)
        save(traced, tmp_path / name / "model.onnx")
    one, other = (tmp_path / name / "model.onnx.data" for name in ("folder", "model"))
    assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_with_other_names_is_refused(tmp_path: Path) -> None:
    """GPT-NeoX calls its head `embed_out` on disk; loading it through transformers renames it, streaming does not."""
    folder = build(tmp_path / "model", "gpt_neox")
    with pytest.raises(BackboneError, match=r"1 weights are missing, among them lm_head\.weight"):
        attach(trace(AutoConfig.from_pretrained(folder)), FolderWeights(folder, "gpt_neox"))


def test_missing_weights_are_all_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "deep", "llama", num_hidden_layers=1)
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = 2
    with pytest.raises(BackboneError, match=r"9 weights are missing, among them .*layers\.1\."):
        attach(trace(config), FolderWeights(folder))


def test_the_graph_file_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    model = onnx.load(bundle.graph_path())
    for node in model.graph.node:
        if node.op_type == "SimplifiedLayerNormalization":
            # onnxruntime's own, though it has it in ONNX's domain
            node.domain = "com.microsoft"
    onnx.checker.check_model(model)
    text = bundle.graph_path().read_bytes()
    assert str(Path.home()).encode() not in text
    assert b"site-packages" not in text
