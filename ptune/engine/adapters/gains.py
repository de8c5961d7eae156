"""Gains that an adapter brings: what it multiplies a layer's inputs and outputs by, beside what it adds.

A folded adapter (`ptune.engine.adapters.fold`) holds them beside its factors as `MODULE.gain`, `.turn`, `.shift` and `.inner`;
`ptune.formats.signature` says what the graph computes with each. A gain is written less 1, so that zeros change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import MERGE, PEFT_PREFIX
from ptune.formats.signature import Signature

Factor = npt.NDArray[np.float32]

REFUSED = (
    "this bundle has no such gains of these layers (of the head, of an input that other layers read, too, of outputs that"
    " groups do not fit):"
)
KINDS = ("gain", "turn", "shift", "inner")


def read_gains(
    tensors: Mapping[str, Factor], signature: Signature, misfits: Misfits
) -> tuple[dict[str, Factor], dict[str, Factor]]:
    """Takes the gains out of an adapter's tensors. Returns the other tensors, and the gains by the graph's inputs."""
    sizes = signature.gain_sizes()
    rest: dict[str, Factor] = {}
    gains: dict[str, Factor] = {}
    for name, tensor in tensors.items():
        given = name.removeprefix(PEFT_PREFIX)
        if given.rpartition(".")[2] not in KINDS:
            rest[name] = tensor
        elif given not in sizes:
            misfits.add(f"{REFUSED} {MERGE}", given)
        elif tensor.shape != (sizes[given],):
            misfits.add(f"gains are {list(tensor.shape)}, the base needs [{sizes[given]}]", given)
        elif not np.isfinite(tensor).all():
            misfits.add("gains have values that are not finite", given)
        else:
            gains[given] = tensor
    return rest, gains
