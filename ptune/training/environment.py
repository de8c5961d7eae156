"""What a run's bytes depend on besides its recipe."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

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


def versions() -> dict[str, str]:
    """Python's version and those of the packages that training stands on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def instruction_set(device: torch.device) -> str:
    """What computes: the CPU's widest vector instructions, or the GPU's name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return str(torch.backends.cpu.get_cpu_capability())
