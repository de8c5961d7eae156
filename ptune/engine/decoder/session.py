"""The graph in onnxruntime, its inputs and outputs bound by pointer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ptune.engine.decoder.inputs.packed_factors import PackedFactors
from ptune.engine.device import Device, Tensor, place
from ptune.engine.kernels import FACTORS, OWN_ATTENTION, Kernels
from ptune.engine.onnx_graph import Array, check_names, open_graph
from ptune.formats.signature import GROUPED_INPUTS, Signature

# Where a model scales its logits (Gemma 2, Granite, Cohere), onnxruntime makes one product of the head and its scale, which
# rounds otherwise. Sockets at the head come between the two, and the graph without sockets must compute the same bits.
SCALED_PRODUCT = "MatMulScaleFusion"


# A run's scores [batch, heads, seq, length of a slot] take memory where they are computed, elsewhere in each step, and
# onnxruntime keeps it all. So it is told to let go after so many scores of a head: 16 MB, of all heads of SmolLM2 150 MB.
KEPT_SCORES = 1 << 22


class Session:
    """One loaded graph. What is bound stays bound: an array is only bound again where it has moved or changed shape.

    Binding takes as long as an operator or two. So inputs that change in every step are copied into arrays that stay bound;
    caches and factors, which are many, are not checked again while they come in the same mapping.
    """

    def __init__(
        self,
        path: Path,
        signature: Signature,
        threads: int | None = None,
        *,
        sockets: bool = True,
        grouped: bool = False,
        kernels: Kernels | None = None,
        device: Device | None = None,
    ) -> None:
        """Loads the graph. `threads` defaults to the cores that this process really has.

        sockets: whether it takes adapters. grouped: whether it takes the grouped layout
        of attention (see ptune.engine.decoder.inputs.attention_metadata). kernels: own operators for its int8 products.
        device: that computes it, on which caches and factors lie; None for the CPU.
        Raises: FormatError where onnxruntime cannot load it or its inputs are not the signature's.
        """
        without = () if signature.ends is None else (SCALED_PRODUCT,)
        self._open = partial(open_graph, path, threads, without=without, kernels=kernels, device=device)
        self._device = device
        self._session: Any = None
        self._binding: Any = None
        self._bound: dict[str, Tensor] = {}  # kept alive as long as they are bound
        self._given: dict[str, Array] = {}  # small inputs of the last run
        self._caches: Mapping[str, Tensor] | None = None  # that are bound
        self._adapters: Mapping[str, Tensor] | None = None
        self._scores = 0  # since the last run that gave memory back
        self._load()
        factors = signature.factor_names() if sockets else []
        of_ends = signature.end_inputs() if sockets else ()
        self._steps = {*signature.step_inputs, *(GROUPED_INPUTS if grouped else ()), *of_ends}
        self.packed = PackedFactors.of(self._session)
        if self.packed is not None:
            factors = [FACTORS, *(name for name in factors if name not in self.packed.names)]
        self._factors = {*factors}
        self._presents = signature.written()
        inputs = {*self._steps, *self._presents, *factors}
        presents = (present for written in self._presents.values() for present in written)
        check_names(self._session, path, inputs, {"logits", *presents})

    def run(
        self,
        inputs: Mapping[str, Array],
        caches: Mapping[str, Tensor],
        factors: Mapping[str, Tensor],
        logits: Array,
        scores: int = 0,
    ) -> None:
        """Runs the graph; `caches`, states among them, and `logits` are written in place.

        Inputs and factors that the graph does not have are ignored. All arrays must be C-contiguous and of the graph's types.
        They are recognised by identity, so `inputs` must not be written to afterwards. scores: of attention, of a head
        (see KEPT_SCORES). After a failed run the session is not trusted: the graph is loaded again before the next run.
        """
        if self._session is None:
            self._load()
        for name, array in inputs.items():
            if name in self._steps:
                self._copy(name, array)
        if caches is not self._caches:
            for name, kept in caches.items():
                self._bind(name, kept)
                for present in self._presents[name]:
                    self._bind(present, kept, output=True)
        if factors is not self._adapters:
            for name, factor in factors.items():
                if name in self._factors:
                    self._bind(name, factor)
        self._caches, self._adapters = caches, factors
        self._bind("logits", logits, output=True)
        try:
            self._session.run_with_iobinding(self._binding, self._options(scores))
        except Exception:
            self._session = self._binding = None
            raise

    def _options(self, scores: int) -> onnxruntime.RunOptions | None:
        """How to run: after enough scores, onnxruntime gives the memory of its intermediate results back."""
        self._scores += scores
        if self._scores <= KEPT_SCORES or self._device is not None:
            return None
        self._scores = 0
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    @property
    def own_attention(self) -> bool:
        """Whether attention is an operator of ptune-kernels."""
        return OWN_ATTENTION in self._session.get_modelmeta().custom_metadata_map

    def last_dimension(self, name: str) -> int:
        """The fixed last dimension of an input."""
        return int(next(found.shape[-1] for found in self._session.get_inputs() if found.name == name))

    def _load(self) -> None:
        self._session = self._open()
        self._binding = self._session.io_binding()
        self._bound, self._given, self._caches, self._adapters = {}, {}, None, None
        self._scores = 0

    def _copy(self, name: str, array: Array) -> None:
        """Hands a small input over in an array of the session's own."""
        if self._given.get(name) is array:
            return
        self._given[name] = array
        own = self._bound.get(name)
        if self._device is not None:
            # It gets a copy as the array is bound, and sees nothing that is written there later.
            self._bound.pop(name, None)
            self._bind(name, array)
        elif isinstance(own, np.ndarray) and own.shape == array.shape:
            own[...] = array
        else:
            self._bind(name, array.copy())

    def _bind(self, name: str, array: Tensor, *, output: bool = False) -> None:
        before = self._bound.get(name)
        self._bound[name] = array
        memory, pointer = place(array)
        if before is None or place(before) != (memory, pointer) or before.shape != array.shape:
            bind = self._binding.bind_output if output else self._binding.bind_input
            bind(name, memory, 0, array.dtype, array.shape, pointer)
