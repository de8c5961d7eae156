"""The environment of a run: everything besides the recipe that its bytes depend on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from ptune.formats.run import RunRecord
from ptune.training.layers.float_products import by_one_dnn

PACKAGES = (
    "ptune",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
)
_NOT_IN_THE_BITS = ("safetensors",)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that training uses."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def instruction_set(device: torch.device) -> str:
    """The CPU's widest vector instructions, and who computes float32 with them if not PyTorch's usual library; or the GPU's name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    widest = str(torch.backends.cpu.get_cpu_capability())
    return f"{widest}, float32 by oneDNN" if by_one_dnn() else widest


def changes(before: RunRecord, now: RunRecord) -> list[str]:
    """Changes since a run began that may change its bits, e.g. "torch 2.12 → 2.13"."""
    pairs: list[tuple[str, object, object]] = [
        (package, before.versions.get(package), now.versions.get(package))
        for package in PACKAGES
        if package in before.versions and package not in _NOT_IN_THE_BITS
    ]
    pairs += [
        ("instruction set", before.instruction_set, now.instruction_set),
        ("threads", before.threads, now.threads),
        ("processes", before.processes, now.processes),
        ("parallelism", before.distributed, now.distributed),
    ]
    return [f"{name} {old} → {new or 'none'}" for name, old, new in pairs if old != new]
