"""Packed weights stand for what the libraries that write them say: compressed-tensors, AutoAWQ and GPTQModel, in their own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import packed_checkpoints as made
from support.libraries import printed_with

from ptune.backbone.packed.formats import BY_METHOD
from ptune.backbone.packed.layout import check

pytestmark = pytest.mark.slow
NAME = "layer"

COMPRESSED = """
import json, sys
from safetensors.torch import load_file, save_file
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme

for path, form, group in json.load(sys.stdin):
    tensors = {name.removeprefix("layer."): tensor for name, tensor in load_file(path).items()}
    compressor = BaseCompressor.get_value_from_registry(form)
    found = compressor.decompress(tensors, QuantizationScheme.model_validate(group))
    save_file({"weight": found["weight"].contiguous()}, path + ".found")
print("[]")
"""

AWQ = """
import importlib.util, json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file

place = next(Path(path) / "awq" / "utils" / "packing_utils.py" for path in sys.path if (Path(path) / "awq").is_dir())
spec = importlib.util.spec_from_file_location("packing_utils", place)
packing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(packing)
for path, group in json.load(sys.stdin):
    one = load_file(path)
    found = packing.dequantize_gemm(one["layer.qweight"], one["layer.qzeros"], one["layer.scales"], 4, group)
    save_file({"weight": found.t().contiguous()}, path + ".found")
print("[]")
"""

GPTQ = """
import json, logging, sys, types
from pathlib import Path

import torch
from safetensors.torch import save_file

# The library's own module that dequantises checkpoints, without all that importing the library brings.
place = next(Path(path) / "gptqmodel" for path in sys.path if (Path(path) / "gptqmodel").is_dir())
for package in ("gptqmodel", "gptqmodel.utils", "gptqmodel.quantization"):
    module = types.ModuleType(package)
    module.__path__ = [str(place.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module
# Of these it asks about accelerators, and logs.
sys.modules["gptqmodel.utils.torch"] = types.SimpleNamespace(HAS_NPU=False)
sys.modules["gptqmodel.utils.logger"] = types.SimpleNamespace(setup_logger=logging.getLogger)
from gptqmodel.utils.model_dequant import convert_gptq_file

for path, settings in json.load(sys.stdin):
    found = convert_gptq_file(Path(path), torch.float32, settings, device="cpu")
    save_file({"weight": found["layer.weight"].contiguous()}, path + ".found")
print("[]")
"""


def weight() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32))


def written(write: Any, path: Path) -> torch.Tensor:
    """Writes a packed weight; returns what ptune makes of it."""
    tensors, _ = write(NAME, weight())
    save_file(tensors, path)
    form = BY_METHOD[write.settings()["quant_method"]]
    names = {part: name.format(next(iter(form.layers(tensors)))) for part, name in form.tensors.items()}
    layout = form.layouts(write.settings())(NAME)
    parts, shape = check(
        layout, {part: tensors[name] for part, name in names.items() if name in tensors}, NAME
    )
    return layout.unpack(parts, shape)


def found(path: Path) -> torch.Tensor:
    return load_file(f"{path}.found")["weight"]


def of_method(method: str) -> dict[str, Any]:
    return {name: one for name, one in made.FORMATS.items() if one.settings()["quant_method"] == method}


@pytest.mark.parametrize(("release", "ordered"), [("", False), ("<0.17", True)])
def test_compressed_tensors(tmp_path: Path, release: str, ordered: bool) -> None:
    """To the bit, in the type of the scales, to which the library rounds. Newer releases read no columns in another order."""
    writers = {
        name: replace(write, block=(32, 64))  # the library cuts a weight into blocks of one size
        for name, write in of_method("compressed-tensors").items()
        if write.actorder == ordered
    }
    ours = {name: written(write, tmp_path / name) for name, write in writers.items()}
    asked = [
        [str(tmp_path / name), write.form, write.settings()["config_groups"]["group_0"]]
        for name, write in writers.items()
    ]
    printed_with((f"compressed-tensors{release}", "loguru"), COMPRESSED, asked, tmp_path)
    for name, values in ours.items():
        theirs = found(tmp_path / name)
        assert torch.equal(values.to(theirs.dtype), theirs), name


def test_awq(tmp_path: Path) -> None:
    """To the bit, in float16, to which the library rounds."""
    writers = {f"groups of {group}": made.Awq(group) for group in (32, 64, 128)}
    ours = {name: written(write, tmp_path / name) for name, write in writers.items()}
    asked = [[str(tmp_path / name), write.group] for name, write in writers.items()]
    printed_with(("autoawq",), AWQ, asked, tmp_path)
    for name, values in ours.items():
        theirs = found(tmp_path / name)
        assert theirs.dtype == torch.float16
        assert torch.equal(values.half(), theirs), name


def test_gptq(tmp_path: Path) -> None:
    """To the bit, in float32."""
    writers = {f"{bits} bits, {version}, {desc_act}": made.Gptq(bits, 32, version, desc_act)
               for bits in (2, 3, 4, 8) for version in (1, 2) for desc_act in (True, False)}  # fmt: skip
    ours = {name: written(write, tmp_path / name) for name, write in writers.items()}
    asked = [[str(tmp_path / name), write.settings()] for name, write in writers.items()]
    printed_with(("gptqmodel",), GPTQ, asked, tmp_path)
    for name, values in ours.items():
        assert torch.equal(values, found(tmp_path / name)), name
