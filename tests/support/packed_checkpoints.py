"""Ready-made quantised checkpoints of tiny models, packed by what the formats' papers and libraries specify.

Each writer rounds a weight, packs the integers as one long number or value by value, and returns the values that they stand
for, computed from the integers before they were packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from support import tiny_models

Tensors = dict[str, Tensor]
Write = Callable[
    [str, Tensor], tuple[Tensors, Tensor]
]  # layer and weight -> tensors in the file, and float32 values


def words(integers: Sequence[int], bits: int) -> list[int]:
    """The integers as one number, the first lowest, cut into signed words of 32 bits."""
    number = sum(int(value) << (bits * place) for place, value in enumerate(integers))
    count = -(-len(integers) * bits // 32)
    cut = [(number >> (32 * place)) & 0xFFFFFFFF for place in range(count)]
    return [word - (1 << 32) if word >> 31 else word for word in cut]


def packed_rows(integers: np.ndarray, bits: int) -> Tensor:
    """[rows, count] -> int32 [rows, words]"""
    return torch.tensor([words(row.tolist(), bits) for row in integers], dtype=torch.int32)


def rounded(
    weight: np.ndarray, group_of: np.ndarray, bits: int, *, symmetric: bool, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q [out, in] and zero [out, groups] from 0 on, scale [out, groups] in float16. Zero points are made up where free."""
    groups, most = int(group_of.max()) + 1, 2**bits - 1
    out = len(weight)
    zero = np.full((out, groups), 2 ** (bits - 1), np.int64)
    if not symmetric:
        zero = np.random.default_rng(seed).integers(1, most + 1, (out, groups))
    scale = np.zeros((out, groups), np.float16)
    for group in range(groups):
        largest = np.abs(weight[:, group_of == group]).max(axis=1)
        scale[:, group] = np.maximum(2 * largest / most, 1e-3)
    q = np.rint(weight / scale.astype(np.float64)[:, group_of]) + zero[:, group_of]
    return np.clip(q, 0, most).astype(np.int64), zero, scale


def stands_for(q: np.ndarray, zero: np.ndarray, scale: np.ndarray, group_of: np.ndarray) -> Tensor:
    """(q - zero) * scale, exactly: integers of 9 bits times floats of 11 fit into a float64, and into a float32."""
    exact = (q - zero[:, group_of]).astype(np.float64) * scale.astype(np.float64)[:, group_of]
    assert (exact.astype(np.float32) == exact).all()
    return torch.from_numpy(exact.astype(np.float32))


@dataclass(frozen=True)
class Gptq:
    """Writes GPTQ."""

    bits: int = 4
    group: int = 32
    version: int = 1
    desc_act: bool = False
    symmetric: bool = False
    keep_g_idx: bool = True

    def settings(self) -> dict[str, Any]:
        said = {} if self.version == 1 else {"checkpoint_format": "gptq_v2"}
        return {"quant_method": "gptq", "bits": self.bits, "group_size": self.group, "desc_act": self.desc_act,
                "sym": self.symmetric, **said}  # fmt: skip

    def __call__(self, layer: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        inner = weight.shape[1]
        group_of = np.arange(inner) // (inner if self.group == -1 else self.group)
        if self.desc_act:
            group_of = np.random.default_rng(inner).permutation(group_of)
        q, zero, scale = rounded(weight.numpy(), group_of, self.bits, symmetric=self.symmetric)
        stored = zero - 1 if self.version == 1 else zero
        tensors = {
            f"{layer}.qweight": packed_rows(q, self.bits).t().contiguous(),
            f"{layer}.qzeros": packed_rows(stored.T, self.bits),
            f"{layer}.scales": torch.from_numpy(scale.T.copy()),
        }
        if self.keep_g_idx:
            tensors[f"{layer}.g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        return tensors, stands_for(q, zero, scale, group_of)


@dataclass(frozen=True)
class Awq:
    """Writes AWQ's gemm layout."""

    group: int = 32

    def settings(self) -> dict[str, Any]:
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": self.group,
            "version": "gemm",
            "zero_point": True,
        }

    def __call__(self, layer: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        inner = weight.shape[1]
        group_of = np.arange(inner) // (inner if self.group == -1 else self.group)
        q, zero, scale = rounded(weight.numpy(), group_of, 4, symmetric=False)
        tensors = {
            f"{layer}.qweight": awq_words(q.T),
            f"{layer}.qzeros": awq_words(zero.T),
            f"{layer}.scales": torch.from_numpy(scale.T.copy()),
        }
        return tensors, stands_for(q, zero, scale, group_of)


def awq_words(integers: np.ndarray) -> Tensor:
    """[rows, out] -> [rows, out / 8]: the i-th four bits of a word hold the neighbour (0, 2, 4, 6, 1, 3, 5, 7)[i]."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    rows = [
        [word for start in range(0, len(row), 8) for word in words([row[start + one] for one in order], 4)]
        for row in integers.tolist()
    ]
    return torch.tensor(rows, dtype=torch.int32)


@dataclass(frozen=True)
class Fp8:
    """Writes FP8 with a scale for each block, or for a whole weight."""

    block: tuple[int, int] | None = (32, 48)
    power_of_two: bool = False

    def settings(self) -> dict[str, Any]:
        said = {"scale_fmt": "ue8m0"} if self.power_of_two else {}
        return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                "weight_block_size": self.block and list(self.block), **said}  # fmt: skip

    def __call__(self, layer: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        height, width = self.block or tuple(weight.shape)
        fp8 = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
        values = torch.empty(weight.shape)
        scales = torch.empty(-(-weight.shape[0] // height), -(-weight.shape[1] // width))
        for row in range(scales.shape[0]):
            for column in range(scales.shape[1]):
                here = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
                scale = weight[here].abs().max() / 448
                scale = torch.exp2(torch.ceil(torch.log2(scale))) if self.power_of_two else scale
                scales[row, column] = scale
                fp8[here] = (weight[here] / scale).to(torch.float8_e4m3fn)
                values[here] = fp8[here].float() * scale
        kept = scales if self.block else scales.reshape(())
        if self.power_of_two:
            kept = (torch.log2(kept) + 127).to(torch.uint8)
        return {f"{layer}.weight": fp8, f"{layer}.weight_scale_inv": kept}, values


@dataclass(frozen=True)
class Compressed:
    """Writes compressed-tensors."""

    form: str = "pack-quantized"
    bits: int = 4
    kind: str = "int"
    strategy: str = "group"
    group: int | None = 32
    symmetric: bool = True
    actorder: bool = False
    block: tuple[int, int] = (32, 48)
    more: dict[str, Any] = field(default_factory=dict)  # of the group

    def settings(self) -> dict[str, Any]:
        weights = {"num_bits": self.bits, "type": self.kind, "strategy": self.strategy, "symmetric": self.symmetric,
                   "group_size": self.group, "actorder": "group" if self.actorder else None,
                   "block_structure": list(self.block) if self.strategy == "block" else None}  # fmt: skip
        return {
            "quant_method": "compressed-tensors", "format": self.form, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, **self.more}},
            "ignore": ["lm_head"],
        }  # fmt: skip

    def __call__(self, layer: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        if self.strategy == "block" or self.kind == "float":
            return self._floats(layer, weight)
        inner = weight.shape[1]
        group_of = np.arange(inner) // (self.group if self.strategy == "group" and self.group else inner)
        if self.actorder:
            group_of = np.random.default_rng(inner).permutation(group_of)
        rows = weight.numpy()
        if self.strategy == "tensor":
            rows = rows.reshape(1, -1)
            group_of = np.zeros(rows.shape[1], np.int64)
        q, zero, scale = rounded(rows, group_of, self.bits, symmetric=self.symmetric)
        values = stands_for(q, zero, scale, group_of).reshape(weight.shape)
        half = 2 ** (self.bits - 1)
        if self.form == "pack-quantized":
            tensors = {
                "weight_packed": packed_rows(q, self.bits),
                "weight_shape": torch.tensor(weight.shape),
            }
            zeros = packed_rows(zero.T, self.bits).t().contiguous()
        else:
            tensors = {"weight": torch.from_numpy((q - half).astype(np.int8)).reshape(weight.shape)}
            zeros = torch.from_numpy((zero - half).astype(np.int8))
            zeros = zeros.reshape(-1) if self.strategy == "tensor" else zeros
        tensors["weight_scale"] = torch.from_numpy(scale.reshape(-1) if self.strategy == "tensor" else scale)
        if not self.symmetric:
            tensors["weight_zero_point"] = zeros
        if self.actorder:
            tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        return {f"{layer}.{name}": tensor for name, tensor in tensors.items()}, values

    def _floats(self, layer: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        if self.strategy == "block":
            tensors, values = Fp8(self.block)(layer, weight)
            tensors[f"{layer}.weight_scale"] = tensors.pop(f"{layer}.weight_scale_inv")
            return tensors, values
        largest = weight.abs().amax(dim=1, keepdim=True) if self.strategy == "channel" else weight.abs().max()
        scale = (largest / 448).to(torch.bfloat16).reshape(-1, 1)
        fp8 = (weight / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
        kept = scale if self.strategy == "channel" else scale.reshape(1)
        return {f"{layer}.weight": fp8, f"{layer}.weight_scale": kept}, fp8.float() * scale.float()


FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def mxfp4(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    """Writes a weight [experts, in, out] as gpt-oss does. Blocks of 32 lie along the input."""
    turned = weight.transpose(1, 2).contiguous()  # [experts, out, in]
    blocks = turned.reshape(*turned.shape[:2], -1, 32)
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1).clamp(min=1e-9))) - 2
    scaled = blocks / torch.exp2(exponent)[..., None]
    known = torch.tensor(FP4)
    nearest = (scaled.abs()[..., None] - known).abs().argmin(-1)
    code = nearest + 8 * (scaled < 0)
    values = torch.where(scaled < 0, -known[nearest], known[nearest]) * torch.exp2(exponent)[..., None]
    packed = (code[..., 0::2] + 16 * code[..., 1::2]).to(torch.uint8)
    scales = (exponent + 127).to(torch.uint8)
    return {f"{name}_blocks": packed, f"{name}_scales": scales}, values.reshape(turned.shape).transpose(1, 2)


def gpt_oss(folder: Path) -> Path:
    """A tiny gpt-oss whose experts are in MXFP4, as it is published."""
    tiny_models.build(folder, "gpt_oss")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        packed, _ = mxfp4(name, tensors.pop(name))
        tensors |= packed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kept = ["model.layers.*.self_attn", "lm_head"]
    set_settings(folder, {"quant_method": "mxfp4", "modules_to_not_convert": kept})
    return folder


def in_eight_bits(folder: Path) -> Path:
    """A tiny Llama in bitsandbytes' int8, as transformers saves it; its original is beside it."""
    original = tiny_models.build(folder.parent / "original")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        original,
        dtype=torch.float32,
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
        device_map={"": "cpu"},
    )
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def build(
    folder: Path, write: Any, family: str = "llama", *, more: Sequence[str] = (), **changes: Any
) -> tuple[Path, Tensors]:
    """Writes a tiny model with its linear layers packed by `write`, and `more` of its layers by name.

    Returns the folder, and the float32 weights that it stands for, by their names.
    """
    tiny_models.build(folder, family, **changes)
    tensors, values = load_file(folder / "model.safetensors"), Tensors()
    for name in [name for name, weight in tensors.items() if weight.ndim == 2]:
        layer = name.removesuffix(".weight")
        if "_proj" in layer or layer in more:
            packed, values[name] = write(layer, tensors.pop(name))
            tensors |= packed
        else:
            values[name] = tensors[name]
    values |= {
        name: weight for name, weight in tensors.items() if weight.ndim == 1 and name.endswith("norm.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    set_settings(folder, write.settings())
    return folder, values


def set_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes a config's `quantization_config`."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


def changed(folder: Path, change: Callable[[Tensors], None]) -> Path:
    """Changes the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


FORMATS: dict[str, Any] = {  # one of each way of packing
    "gptq": Gptq(),
    "gptq v2, act order": Gptq(version=2, desc_act=True),
    "gptq 8 bits": Gptq(bits=8, group=-1, symmetric=True),
    "gptq 3 bits": Gptq(bits=3, group=32, keep_g_idx=False),
    "gptq 2 bits": Gptq(bits=2, group=32, version=2),
    "awq": Awq(),
    "fp8": Fp8(),
    "fp8, powers of two": Fp8(power_of_two=True),
    "fp8, one scale": Fp8(None),
    "compressed int4": Compressed(),
    "compressed int4 with zeros, act order": Compressed(symmetric=False, actorder=True),
    "compressed int3": Compressed(bits=3),
    "compressed int8 in words": Compressed(bits=8, strategy="channel", group=None),
    "compressed int8": Compressed("int-quantized", 8, strategy="channel", group=None),
    "compressed int8 with zeros": Compressed(
        "int-quantized", 8, strategy="channel", group=None, symmetric=False
    ),
    "compressed int8, one scale": Compressed("naive-quantized", 8, strategy="tensor", group=None),
    "compressed fp8": Compressed("float-quantized", 8, "float", "channel", None),
    "compressed fp8, one scale": Compressed("naive-quantized", 8, "float", "tensor", None),
    "compressed fp8 in blocks": Compressed("float-quantized", 8, "float", "block", None),
}
