"""The graph in onnxruntime, its inputs and outputs bound by pointer."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from ptune.errors import FormatError
from ptune.formats.signature import GROUPED_INPUTS, STEP_INPUTS, Signature

Array = npt.NDArray[Any]


class Session:
    """One loaded graph. What is bound stays bound: an array is only bound again where it has moved or changed shape.

    Binding takes as long as an operator or two. So what changes in every step is copied into arrays that stay bound, and
    caches and factors, which are many, are not looked at again as long as they come in the same mapping.
    """

    def __init__(
        self,
        path: Path,
        signature: Signature,
        threads: int | None = None,
        *,
        sockets: bool = True,
        grouped: bool = False,
    ) -> None:
        """Loads the graph. `threads` defaults to the cores that this process really has.

        sockets: whether it takes adapters. grouped: whether it takes the grouped view of attention (ptune.engine.views).
        Raises: FormatError where onnxruntime cannot load it or its inputs are not the signature's.
        """
        self._open = partial(open_graph, path, threads)
        self._session: Any = None
        self._binding: Any = None
        self._bound: dict[str, Array] = {}  # kept alive as long as they are bound
        self._given: dict[str, Array] = {}  # small inputs, as they came last
        self._caches: Mapping[str, Array] | None = None  # that are bound
        self._adapters: Mapping[str, Array] | None = None
        self._load()
        factors = signature.factor_names() if sockets else ()
        self._steps = {*STEP_INPUTS, *(GROUPED_INPUTS if grouped else ())}
        self._factors = {*factors}
        self._presents = dict(zip(signature.past_names(), signature.present_names(), strict=True))
        inputs = {*self._steps, *self._presents, *factors}
        check_names(self._session, path, inputs, {"logits", *signature.present_names()})

    def run(
        self,
        inputs: Mapping[str, Array],
        caches: Mapping[str, Array],
        factors: Mapping[str, Array],
        logits: Array,
    ) -> None:
        """Runs the graph; `caches` grow and `logits` are written, in place.

        Of the inputs and factors, those that the graph does not have are not looked at. All arrays must be C-contiguous
        and of the graph's types. They are recognised by identity, so `inputs` must not be written to once they were handed
        over. What a run that failed has left in the session is not trusted: the graph is loaded anew before the next one.
        """
        if self._session is None:
            self._load()
        for name, array in inputs.items():
            if name in self._steps:
                self._copy(name, array)
        if caches is not self._caches:
            for name, array in caches.items():
                self._bind(name, array)
                self._bind(self._presents[name], array, output=True)
        if factors is not self._adapters:
            for name, array in factors.items():
                if name in self._factors:
                    self._bind(name, array)
        self._caches, self._adapters = caches, factors
        self._bind("logits", logits, output=True)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception:
            self._session = self._binding = None
            raise

    def last_dimension(self, name: str) -> int:
        """The fixed last dimension of an input."""
        return int(next(found.shape[-1] for found in self._session.get_inputs() if found.name == name))

    def _load(self) -> None:
        self._session = self._open()
        self._binding = self._session.io_binding()
        self._bound, self._given, self._caches, self._adapters = {}, {}, None, None

    def _copy(self, name: str, array: Array) -> None:
        """Hands a small input over in an array of the session's own."""
        if self._given.get(name) is array:
            return
        self._given[name] = array
        own = self._bound.get(name)
        if own is not None and own.shape == array.shape:
            own[...] = array
        else:
            self._bind(name, array.copy())

    def _bind(self, name: str, array: Array, *, output: bool = False) -> None:
        before = self._bound.get(name)
        self._bound[name] = array
        if before is None or before.ctypes.data != array.ctypes.data or before.shape != array.shape:
            bind = self._binding.bind_output if output else self._binding.bind_input
            bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def open_graph(
    path: Path, threads: int | None = None, *, without: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """Loads a graph. `threads` defaults to the cores that this process really has.

    without: names of onnxruntime's optimisers that are left out.
    Raises: FormatError where onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Workers spin between the operators of a step, which is fast, but not between steps: an idle server is idle.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*without]
        )
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise FormatError(f"{path} cannot be loaded: {error}") from None


def check_names(
    session: onnxruntime.InferenceSession, path: Path, inputs: Collection[str], outputs: Collection[str]
) -> None:
    """Raises: FormatError where a graph's inputs and outputs are not those that its manifest's signature has."""
    found = {
        "inputs": ({*inputs}, {node.name for node in session.get_inputs()}),
        "outputs": ({*outputs}, {node.name for node in session.get_outputs()}),
    }
    for kind, (expected, there) in found.items():
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
