"""One profile's graphs: the whole one and, on the same weights, faster variants for steps that need less."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ptune.engine.decoder.inputs.attention_metadata import Heads, least_keys
from ptune.engine.decoder.inputs.flat_tokens import LEAST
from ptune.engine.decoder.session import Session
from ptune.engine.device import Device
from ptune.engine.kernels import Kernels
from ptune.engine.onnx_graph import available_cores
from ptune.engine.options import LIGHT
from ptune.formats.bundle import (
    BARE,
    GROUPED,
    GROUPED_BARE,
    GROUPED_NO_GAINS,
    INT8_CACHE,
    INT8_CACHE_BARE,
    INT8_CACHE_NO_GAINS,
    NF4,
    NO_GAINS,
)
from ptune.formats.signature import Signature

# Outputs of a product in nf4 for each thread. onnxruntime 1.32's MatMulBnb4 divides a product's outputs among threads, and its
# inputs otherwise where a thread has 64 outputs or fewer: several rows then have other bits than one.
_OUTPUTS_A_THREAD = 128


def most_threads_of_nf4(signature: Signature) -> int:
    """With how many threads a row's bits depend on no other row, by the narrowest product; at least 1."""
    narrowest = min((socket.out_features for socket in signature.sockets), default=_OUTPUTS_A_THREAD)
    return max(1, narrowest // _OUTPUTS_A_THREAD)


@dataclass(frozen=True)
class Graphs:
    """Sessions that compute the same. bare: without sockets; grouped: with the grouped layout of attention.

    without_gains: those of steps whose adapters have no gains, in a bundle with sockets for gains.
    """

    whole: Session
    bare: Session | None = None
    grouped: Session | None = None
    grouped_bare: Session | None = None
    least_tokens: int = 1  # cells that a step must have, for the same bits in any batch
    least_queries: int = LEAST  # of a head in a sequence, likewise
    least_keys: int = 1  # of a sequence, likewise
    own_attention: bool = False  # of ptune-kernels: any queries, chunks and slots may share a run, and need no memory for scores
    without_gains: Graphs | None = None
    device: Device | None = None  # that computes them; None for the CPU

    @classmethod
    def open(
        cls,
        path: Path,
        signature: Signature,
        threads: int | None = None,
        least_tokens: int = 1,
        kernels: Kernels | None = None,
        device: Device | None = None,
    ) -> Graphs:
        """Opens the graph at `path`, and the variants beside it where the weights are small.

        kernels: own operators for int8 products. device: that computes them. Raises: FormatError; PtuneError.
        """
        if path.parent.name == NF4:
            threads = min(threads or available_cores(), most_threads_of_nf4(signature))
        weights = path.with_name("model.onnx.data")
        light = not weights.is_file() or weights.stat().st_size <= LIGHT
        whole = Session(path, signature, threads, kernels=kernels, device=device)
        own = whole.own_attention

        plain = signature.without_gains()
        gains = signature.ends is not None and signature.ends.has_gains

        def beside(
            name: str, *, sockets: bool = True, grouped: bool = False, signature: Signature = signature
        ) -> Session | None:
            there = path.with_name(name)
            if not light or not there.is_file():
                return None
            found = Session(
                there, signature, threads, sockets=sockets, grouped=grouped, kernels=kernels, device=device
            )
            return found if found.own_attention == own else None  # or else it has other bits

        of_int8 = path.name == INT8_CACHE
        without = beside(INT8_CACHE_NO_GAINS if of_int8 else NO_GAINS, signature=plain) if gains else None
        if of_int8 or own or device is not None:  # one query is computed as many are
            bare = beside(INT8_CACHE_BARE if of_int8 else BARE, sockets=False)
            found = cls(
                whole, bare, least_tokens=least_tokens, least_queries=1, own_attention=own, device=device
            )
            return found if without is None else replace(found, without_gains=replace(found, whole=without))
        grouped = beside(GROUPED, grouped=True)
        if grouped is not None and grouped.packed != whole.packed:
            grouped = None  # one of the two could not be rewritten: a step's factors fit only the other
        found = cls(
            whole,
            beside(BARE, sockets=False),
            grouped,
            beside(GROUPED_BARE, sockets=False, grouped=True),
            least_tokens,
            least_keys=least_keys(signature),
        )
        if without is None:
            return found
        if grouped is not None:
            grouped = beside(GROUPED_NO_GAINS, grouped=True, signature=plain)
            if grouped is None or grouped.packed != without.packed:
                return found
        return replace(found, without_gains=replace(found, whole=without, grouped=grouped))

    @property
    def heads(self) -> Heads | None:
        """Attention heads of the grouped graphs; None where there are none."""
        if self.grouped is None:
            return None
        return Heads(self.grouped.last_dimension("unpad_indices"), self.grouped.last_dimension("heads") // 3)

    def of(self, *, sockets: bool, grouped: bool) -> Session:
        """Chooses the session for a step. sockets: whether it has adapters. grouped: the layout of attention."""
        whole, bare = (self.grouped, self.grouped_bare) if grouped else (self.whole, self.bare)
        assert whole is not None
        return whole if sockets else bare or whole
