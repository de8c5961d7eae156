"""A bundle with many LoRA adapters of random weights: r16 on all linear layers, each another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RANK, ALPHA = 16, 32
_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def names(count: int) -> list[str]:
    return [f"random-{number:02}" for number in range(count)]


def with_adapters(bundle: Path, work: Path, count: int) -> Path:
    """A copy of the bundle (hard links) that has `count` adapters; made anew where the bundle has changed."""
    import shutil

    from ptune.engine.adapters.folder import install, of_bundle
    from ptune.formats.bundle import Bundle

    target = work / "adapted"
    source = Bundle.open(bundle)
    if target.is_dir():
        there = Bundle.open(target).manifest
        same = (there.graphs, there.golden, there.base) == (
            source.manifest.graphs, source.manifest.golden, source.manifest.base
        )  # fmt: skip
        if same and there.adapters.keys() >= {*source.manifest.adapters, *names(count)}:
            return target
        shutil.rmtree(target)
    stage = work / "adapted.part"
    shutil.rmtree(stage, ignore_errors=True)
    copy = of_bundle(source, stage)
    for number, name in enumerate(names(count)):
        install(copy, write_adapter(source, work / "adapters" / name, number), name)
    stage.rename(target)
    return target


def write_adapter(bundle: object, folder: Path, seed: int) -> Path:
    """A folder as peft's `save_pretrained` writes it; A and B both random, B small."""
    import numpy as np
    from safetensors.numpy import save_file

    if (folder / "adapter_config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for socket in bundle.decoder.sockets:  # type: ignore[attr-defined]
        name = f"base_model.model.{socket.name}"
        a = chance.standard_normal((RANK, socket.in_features), np.float32) / socket.in_features**0.5
        b = 0.01 * chance.standard_normal((socket.out_features, RANK), np.float32)
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": _MODULES,
        "bias": "none", "lora_dropout": 0.0, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def bytes_of(folder: Path) -> int:
    """Bytes of an adapter's factors in float32."""
    from safetensors import safe_open

    total = 0
    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118  no mapping
            total += 4 * int(file.get_slice(name).get_shape()[0]) * int(file.get_slice(name).get_shape()[1])
    return total
