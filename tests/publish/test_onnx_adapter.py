"""`ptune add BUNDLE FILE.onnx_adapter`: the factors that were written come back to the bit, and answer as PEFT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from support.bundles import peft_folder, tiny_bundle
from support.tiny_models import build
from transformers import AutoModelForCausalLM

from ptune.cli import main
from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import load_adapter
from ptune.errors import AdapterError
from ptune.formats.bundle import Bundle
from ptune.formats.onnx_adapter import Pair, read_onnx_adapter, write_onnx_adapter
from ptune.publish.onnx_adapter import as_peft_folder, write_peft_folder
from ptune.verify.decoder import probes

ADAPTERS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "rank 1": {"r": 1, "lora_alpha": 1},
    "ranks and alphas": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7},
        "alpha_pattern": {"k_proj": 20},
    },
    "rsLoRA": {"use_rslora": True, "r": 3, "lora_alpha": 7},
    "one layer": {"target_modules": ["v_proj"], "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("base") / "model")


def pairs_of(base: Path, adapter: Path) -> dict[str, Pair]:
    """Factors as peft has them once it has loaded a folder: A [in, rank], B [rank, out] times the layer's scale."""
    wrapped = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    )
    found: dict[str, Pair] = {}
    for name, layer in wrapped.get_base_model().named_modules():
        if "default" in getattr(layer, "lora_A", {}):
            a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
            found[name] = a.numpy().T, (b * layer.scaling["default"]).numpy().T
    return found


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_there_and_back(name: str, base: Path, tmp_path: Path) -> None:
    """PEFT → .onnx_adapter → PEFT: what peft loads is the same, to the bit; and so is a second way there."""
    first = pairs_of(base, peft_folder(base, tmp_path / "peft", **ADAPTERS[name]))
    write_onnx_adapter(tmp_path / "a.onnx_adapter", first)
    write_peft_folder(tmp_path / "a.onnx_adapter", tmp_path / "again")
    second = pairs_of(base, tmp_path / "again")
    assert second.keys() == first.keys()
    for layer, pair in first.items():
        for before, after in zip(pair, second[layer], strict=True):
            assert np.array_equal(before, after), layer
    write_onnx_adapter(tmp_path / "b.onnx_adapter", second)
    again = read_onnx_adapter(tmp_path / "b.onnx_adapter")
    assert all(
        np.array_equal(a, b) for layer in first for a, b in zip(first[layer], again[layer], strict=True)
    )


def test_numbers_keep_their_type(tmp_path: Path) -> None:
    half = {"model.layers.0.mlp.up_proj": (np.ones((4, 2), np.float16), np.ones((2, 3), np.float16))}
    write_onnx_adapter(tmp_path / "half.onnx_adapter", half)
    with as_peft_folder(tmp_path / "half.onnx_adapter") as folder:
        assert folder.name == "half"
        saved = load_file(folder / "adapter_model.safetensors")
    assert not folder.exists()
    assert {(one.dtype.name, one.shape) for one in saved.values()} == {
        ("float16", (2, 4)),
        ("float16", (3, 2)),
    }


def test_the_engine_gets_the_factors_of_the_peft_folder(tmp_path: Path) -> None:
    model, _, bundle = tiny_bundle(tmp_path)
    adapter = peft_folder(model, tmp_path / "peft", **ADAPTERS["ranks and alphas"])
    write_onnx_adapter(tmp_path / "mine.onnx_adapter", pairs_of(model, adapter))
    with as_peft_folder(tmp_path / "mine.onnx_adapter") as folder:
        assert install(bundle, folder, "mine").rank == 7
    opened = Bundle.open(bundle.folder)
    ours = load_adapter(opened.adapter_path("mine"), opened.decoder)
    theirs = load_adapter(adapter, opened.decoder)
    assert ours.factors.keys() == theirs.factors.keys()
    for socket, pair in theirs.factors.items():
        assert all(np.array_equal(a, b) for a, b in zip(pair, ours.factors[socket], strict=True)), socket


@pytest.mark.slow
def test_it_is_added_and_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build(tmp_path / "model")
    bundle = tmp_path / "bundle"
    assert main(["export", str(model), "--out", str(bundle), "--threads", "1"]) == 0
    file = tmp_path / "mine.onnx_adapter"
    write_onnx_adapter(file, pairs_of(model, peft_folder(model, tmp_path / "peft", spread=0.15)))
    assert main(["add", str(bundle), str(file), "--threads", "1"]) == 0
    assert "added mine (rank 4, parity measured)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layer", "shapes", "said"),
    [
        ("model.layers.0.mlp.up_proj", ((5, 2), (2, 3)), "up_proj"),
        ("model.layers.99.mlp.up_proj", ((4, 2), (2, 3)), "layers.99"),
    ],
)
def test_one_that_does_not_fit(
    layer: str,
    shapes: tuple[tuple[int, int], tuple[int, int]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, loaded, bundle = tiny_bundle(tmp_path)
    probes.save(probes.of_examples([], loaded.codec), bundle.folder)
    write_onnx_adapter(
        tmp_path / "x.onnx_adapter", {layer: (np.ones(shapes[0], np.float32), np.ones(shapes[1], np.float32))}
    )
    assert main(["add", str(bundle.folder), str(tmp_path / "x.onnx_adapter"), "--unproved"]) == 1
    assert said in capsys.readouterr().err
    assert not Bundle.open(bundle.folder).manifest.adapters


def test_one_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.onnx_adapter").write_bytes(b"GGUF")
    with pytest.raises(AdapterError, match=r"x\.onnx_adapter is no \.onnx_adapter that onnxruntime can read"):
        write_peft_folder(tmp_path / "x.onnx_adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
