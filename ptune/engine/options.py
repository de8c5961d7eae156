"""Options of the engines, each declared once: its default, its unit and its range.

The same options are keywords of `Engine.open` and `ptune.load` and, through `ptune.cli.engine_flags`, flags of the commands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypedDict, get_args

from ptune.errors import UsageError
from ptune.formats.bundle import FLOAT_CACHE, CacheType

GIB = 1 << 30
KV_DISK_QUEUE_BYTES = (
    256 << 20
)  # of idle conversations that wait to be written to disk; what comes beyond that while it is busy is not kept
LIGHT = 512 << 20  # most bytes of weights that are loaded once for each graph of a profile
KernelChoice = Literal["auto", "own", "exact", "off"]
CPU, CUDA, AUTO = "cpu", "cuda", "auto"
DEVICES = (CPU, CUDA, AUTO)
_NO_ATTENTION = "onnxruntime has no attention for it that knows how many tokens each sequence has, so that keys and values would travel to the CPU"
NO_DEVICES = {
    "rocm": "onnxruntime has no ROCm provider any more",
    **dict.fromkeys(
        ("migraphx", "dml", "directml", "coreml", "mps", "openvino", "qnn", "webgpu"), _NO_ATTENTION
    ),
    "tensorrt": "a graph with adapters as inputs would be compiled again for each of its shapes; cuda is for the same cards",
}
"""Providers that a server cannot use, and why."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of every kind of engine."""

    profile: str | None = None
    """Which of the bundle's graphs to run, such as int8; default: the bundle's own choice."""
    threads: int | None = None
    """Threads of onnxruntime; default: the cores that this process may use."""
    max_rows: int = 32
    """Most sequences, texts or images in one batch."""
    max_waiting: int = 256
    """Most requests that wait for the batch or for their adapter; further ones are refused."""
    adapter_bytes: int | None = None
    """Memory for adapters, in bytes: beyond it the least recently used are evicted, and read again when they are asked for.
    Default: all stay in memory."""

    def check(self) -> None:
        """Raises: UsageError that names the first option out of range."""
        _require_counts(max_rows=self.max_rows, max_waiting=self.max_waiting, threads=self.threads or 1)


@dataclass(frozen=True, kw_only=True)
class EngineOptions(BatchOptions):
    """Options of a decoder's engine."""

    kv_bytes: int = GIB
    """Memory of the KV cache, in bytes, which all sequences share. Each may be as long as the model's context."""
    prefill_chunk: int = 128
    """Most prompt tokens that one step computes."""
    step_ms: float = 200.0
    """Desired time of a step while answers are generated, in milliseconds: longer prompts are cut into smaller chunks.
    0 = any time."""
    kv_cache_dtype: CacheType = FLOAT_CACHE
    """Type of keys and values: int8 takes a quarter of the memory, of bundles that were exported with it."""
    num_speculative_tokens: int = 16
    """Most draft tokens that one step computes, for all sequences together; see ptune.engine.decoder.drafts.ngram.
    0 = none."""
    draft_model: Path | None = None
    """The bundle of a smaller model with the same tokenizer, which drafts tokens that this one then computes in one step;
    see ptune.engine.decoder.drafts.model. Its cache takes memory beside `kv_bytes`, in proportion to its layers."""
    kv_disk: Path | None = None
    """A folder for keys and values of idle conversations that no longer fit into `kv_bytes`, which are read back when a conversation
    goes on, after a restart, too; see ptune.engine.decoder.cache.idle. It holds what was said. Default: they are forgotten."""
    kv_disk_bytes: int = 10 * GIB
    """Most bytes of that folder; what was used longest ago is deleted."""
    kernels: KernelChoice = "auto"
    """Own operators of the package ptune-kernels, where it is installed and was found to compute the same on this machine:
    auto = those that the bundle's export did not refuse; own = all; exact = those alone that give the same bits as the plain
    graph, so that attention stays onnxruntime's."""
    device: str = "cpu"
    """What computes: cpu; cuda, an NVIDIA card, for which onnxruntime-gpu 1.32 or later takes onnxruntime's place (never run on a
    GPU); auto = cuda where a card, that package and a profile with kernels there are found, else the CPU."""

    def check(self) -> None:
        """Raises: UsageError that names the first option out of range."""
        super().check()
        _require_counts(prefill_chunk=self.prefill_chunk, kv_disk_bytes=self.kv_disk_bytes)
        if not 0 <= self.step_ms < math.inf:
            raise UsageError(f"step_ms must be 0 (any time) or more (is {self.step_ms})")
        if self.num_speculative_tokens < 0:
            raise UsageError(
                f"num_speculative_tokens must be 0 (none) or more (is {self.num_speculative_tokens})"
            )
        if self.kv_cache_dtype not in get_args(CacheType):
            raise UsageError(f"kv_cache_dtype must be float32 or int8 (is {self.kv_cache_dtype})")
        if self.kernels not in get_args(KernelChoice):
            raise UsageError(f"kernels must be auto, own, exact or off (is {self.kernels})")
        if self.device not in DEVICES:
            why = NO_DEVICES.get(self.device.lower(), "there is no such device")
            raise UsageError(f"device must be cpu, cuda or auto (is {self.device}): {why}")

    def shared(self) -> BatchOptions:
        """The options that the other kinds of engines have, too."""
        return BatchOptions(**{field.name: getattr(self, field.name) for field in fields(BatchOptions)})

    def chosen_for_decoder(self) -> list[str]:
        """Names of the options that only a decoder's engine has and that differ from their defaults."""
        shared = {field.name for field in fields(BatchOptions)}
        return [
            field.name
            for field in fields(EngineOptions)
            if field.name not in shared and getattr(self, field.name) != field.default
        ]


class BatchKeywords(TypedDict, total=False):
    """The fields of `BatchOptions` as keywords."""

    profile: str | None
    threads: int | None
    max_rows: int
    max_waiting: int
    adapter_bytes: int | None


class EngineKeywords(BatchKeywords, total=False):
    """The fields of `EngineOptions` as keywords."""

    kv_bytes: int
    prefill_chunk: int
    step_ms: float
    kv_cache_dtype: CacheType
    num_speculative_tokens: int
    draft_model: Path | None
    kv_disk: Path | None
    kv_disk_bytes: int
    kernels: KernelChoice
    device: str


def _require_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name} must be 1 or more (is {value})")
