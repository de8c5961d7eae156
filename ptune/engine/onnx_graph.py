"""Opens ONNX graphs in onnxruntime, and counts the cores that it may use."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import onnxruntime

from ptune.engine.kernels import Kernels
from ptune.engine.mapped_files import let_go
from ptune.errors import FormatError, PtuneError

Array = npt.NDArray[Any]
LEAST_ONNXRUNTIME = (1, 32)  # as pyproject.toml; 1.31.1 refuses the decoder's graphs

# onnxruntime 1.32 computes GroupQueryAttention tile by tile, in tiles whose size follows from the CPU's cache. Where the last one
# holds a single query it is computed by another kernel, which rounds otherwise: a chunk of 33 tokens then gives other bits than
# one of 32. Without tiles each query is computed alike, and one stream is a little slower. Read by each kernel as it is made.
NO_TILES = "ORT_GQA_DISABLE_FLASH_ATTENTION"


class Provider(Protocol):
    """What computes in place of the CPU (`ptune.engine.device.Device`)."""

    @property
    def providers(self) -> list[Any]: ...

    def prepare(self, path: Path, options: Any) -> bytes: ...

    def check(self, session: onnxruntime.InferenceSession) -> None: ...


def open_graph(
    path: Path,
    threads: int | None = None,
    *,
    without: Sequence[str] = (),
    kernels: Kernels | None = None,
    device: Provider | None = None,
) -> onnxruntime.InferenceSession:
    """Loads a graph. `threads` defaults to the cores that this process really has.

    without: names of onnxruntime's optimisers that are left out. kernels: own operators for its int8 products.
    device: that computes it; None for the CPU.
    Raises: PtuneError where onnxruntime is too old, or cannot use the device; FormatError where it cannot load the graph.
    """
    check_onnxruntime()
    os.environ[NO_TILES] = "1"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Workers spin between the operators of a step, which is fast, but not between steps: an idle server is idle.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        prepared = kernels if device is None else device
        graph = path if prepared is None else prepared.prepare(path, options)
        providers = ["CPUExecutionProvider"] if device is None else device.providers
        # Operators copy the weights into layouts of their own, and hardly read them from the files again.
        with let_go(path.parent, "*.data"):
            session = onnxruntime.InferenceSession(
                graph, options, providers=providers, disabled_optimizers=[*without]
            )
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise FormatError(f"{path} cannot be loaded: {error}") from None
    if device is not None:
        device.check(session)
    return session


def check_onnxruntime() -> None:
    """Raises: PtuneError where the onnxruntime that is installed is older than the graphs' operators need."""
    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    if (major, minor) < LEAST_ONNXRUNTIME:
        needed = ".".join(map(str, LEAST_ONNXRUNTIME))
        raise PtuneError(
            f"onnxruntime {onnxruntime.__version__} is installed, and ptune's graphs need {needed} or later:"
            f" pip install --upgrade 'onnxruntime>={needed}'"
        )


def check_names(
    session: onnxruntime.InferenceSession, path: Path, inputs: Collection[str], outputs: Collection[str]
) -> None:
    """Raises: FormatError where a graph's inputs and outputs are not those of its manifest's signature."""
    names = {
        "inputs": ({*inputs}, {node.name for node in session.get_inputs()}),
        "outputs": ({*outputs}, {node.name for node in session.get_outputs()}),
    }
    for kind, (expected, there) in names.items():
        if wrong := sorted(expected ^ there):
            shown = ", ".join(wrong[:5])
            raise FormatError(
                f"{path} does not have the {kind} of its manifest's signature; they differ in {shown}"
            )


def available_cores() -> int:
    """Cores that this process may use: its affinity and its cgroup's CPU quota, whichever is less."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _cgroup_cores(Path("/sys/fs/cgroup")) or affinity))


def _cgroup_cores(root: Path) -> int | None:
    """The CPU quota in whole cores, None where there is none; cgroup v2's file, then v1's two."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        return max(1, int(quota) // int(period)) if quota not in ("max", "-1") else None
    return None
