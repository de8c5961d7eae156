"""ptune env"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from ptune.cli.parse import parse
from ptune.cli.result import tell

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
)
TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""Of a CPU's features those that decide which kernels run, as /proc/cpuinfo writes them."""


def run(arguments: list[str]) -> int:
    return parse(env, arguments, "env")


def env(gpu: bool = True) -> int:
    """Prints what a report of a bug should say: versions, processor, memory, GPU.

    Args:
        gpu: Ask torch for the GPU, which takes seconds: nothing else here imports it.
    """
    found = {**versions(), **machine()}
    if gpu:
        found["gpu"] = gpu_here()
    tell(**found)
    for name, value in found.items():
        print(f"{name:<14}{value}")
    return 0


def versions() -> dict[str, str]:
    """ptune's, Python's and those of the packages that compute; one that is not installed says so."""
    found = {"ptune": _version("ptune"), "python": f"{platform.python_version()} ({platform.platform()})"}
    return found | {package: _version(package) for package in PACKAGES}


def machine(root: Path = Path("/")) -> dict[str, str]:
    """Processor, cores and memory. root: where proc/ lies."""
    said = _read(root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", said, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", said, re.MULTILINE)
    features = [name for name in TELLING if flags and name in flags[1].split()]
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "features": " ".join(features) or "unknown",
        "cores": f"{_usable_cores()} of {os.cpu_count()}",
        "memory": f"{int(memory[1]) / 2**20:.1f} GiB" if memory else "unknown",
    }


def gpu_here() -> str:
    """The GPUs that torch sees."""
    try:
        import torch
    except ModuleNotFoundError:
        return "unknown: torch is not installed"
    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return ", ".join(names) or "none that torch can use"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # not Linux
        return ""
