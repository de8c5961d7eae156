"""An encoder's graphs in onnxruntime: the body, which all adapters share, with and without sockets, and each adapter's head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ptune.engine.adapters.stacked import Stack, stack_of
from ptune.engine.onnx_graph import Array, check_names, open_graph
from ptune.engine.options import LIGHT
from ptune.formats.bundle import BARE
from ptune.formats.signature import EncoderSignature

# Add and LayerNormalization as one operator take onnxruntime's CPU six times as long as the two: a tenth of a pass.
SLOW = ("SkipLayerNormFusion",)


class Body:
    """The body: one graph for rows of an adapter and one for those of the base, which may be the same."""

    def __init__(self, path: Path, signature: EncoderSignature, threads: int | None = None) -> None:
        """Opens the graph at `path`, and beside it the one without sockets, where there is one and the weights are light.

        Raises: FormatError where onnxruntime cannot load a graph or its inputs are not the signature's.
        """
        self._plugged = self._bare = BodySession(path, signature, threads)
        self._none = stack_of([], signature)
        weights = path.with_name(f"{path.name}.data")
        bare = path.with_name(BARE)
        if bare.is_file() and (
            not weights.is_file() or weights.stat().st_size <= LIGHT
        ):  # each graph has the weights in memory again
            signature = signature.model_copy(update={"sockets": ()})
            self._bare, self._none = BodySession(bare, signature, threads), stack_of([], signature)

    def hidden(self, inputs: Mapping[str, Array], factors: Stack | None) -> Array:
        """Hidden states of a batch whose rows are all under these factors, None = the bare base.

        inputs: the body's, except `lora_mask` and the factors.
        """
        session, stack = (self._bare, self._none) if factors is None else (self._plugged, factors)
        rows = len(next(iter(inputs.values())))
        lora_mask = np.ones((rows, stack.rank), np.float32)
        return session.run({**inputs, "lora_mask": lora_mask}, stack.inputs)


class BodySession:
    """One graph of the body. Inputs stay bound: factors are only bound again where another stack is used."""

    def __init__(self, path: Path, signature: EncoderSignature, threads: int | None = None) -> None:
        """Raises: FormatError where onnxruntime cannot load the graph or its inputs are not the signature's."""
        self._session = open_graph(path, threads, without=SLOW)
        check_names(self._session, path, {*signature.step_inputs(), *signature.factor_names()}, {"hidden"})
        self._binding = self._session.io_binding()
        self._factors: Mapping[str, Array] = {}

    def run(self, inputs: Mapping[str, Array], factors: Mapping[str, Array]) -> Array:
        """Hidden states of a batch. `factors` is recognised by identity: its arrays must not change."""
        if factors is not self._factors:
            self._bind(factors)
            self._factors = factors  # kept alive while it is bound
        self._bind(inputs)
        self._binding.bind_output("hidden", "cpu")
        self._session.run_with_iobinding(self._binding)
        hidden: Array = self._binding.get_outputs()[0].numpy()
        return hidden

    def _bind(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


class HeadSession:
    """One adapter's head: hidden states -> logits."""

    def __init__(self, path: Path, signature: EncoderSignature) -> None:
        """Raises: FormatError where onnxruntime cannot load the graph or it is not a head."""
        self._session = open_graph(path, 1)  # a head is small
        self._text = signature.modality == "text"
        check_names(self._session, path, {"hidden", "lengths"} if self._text else {"hidden"}, {"logits"})

    def run(self, hidden: Array, lengths: Array | None) -> Array:
        """Logits [rows, labels], or [rows, seq, labels] for an adapter that labels tokens."""
        rows = len(hidden)
        if rows == 1:  # twice: onnxruntime adds the products of a single row in another order
            hidden, lengths = hidden.repeat(2, axis=0), None if lengths is None else lengths.repeat(2)
        feeds = {"hidden": np.ascontiguousarray(hidden)}
        if self._text:
            assert lengths is not None
            feeds["lengths"] = lengths
        logits: Array = self._session.run(["logits"], feeds)[0]
        return logits[:rows]
