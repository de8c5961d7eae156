"""Biases that an adapter brings, as peft saves them: of its B factors (`lora_bias`), and the base's own, trained (`bias`).

Both move a layer's output by one constant row. The row becomes the first of the layer's B, which the graph multiplies by ones
(`ptune.formats.signature`), so a bias takes one more rank and no input of its own.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.ends import is_copy
from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import MERGE, LoraConfig
from ptune.formats.signature import Ends, Signature, Socket

Factor = npt.NDArray[np.float32]
Pair = tuple[Factor, Factor]

_OF_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_B(?:\.[^.]+)?\.bias")
_OF_LAYER = re.compile(r"base_model\.model\.(?P<module>.+?)(?P<wrapped>\.base_layer)?\.bias")


def read_biases(
    tensors: Mapping[str, Factor], config: LoraConfig, signature: Signature, misfits: Misfits
) -> tuple[dict[str, Factor], dict[str, Factor]]:
    """Takes the biases out of an adapter's tensors. Returns the other tensors, and by socket the row [out] that is added.

    signature: of a bundle whose adapters may bring biases.
    """
    ends = signature.ends
    assert ends is not None
    sockets = {socket.name: socket for socket in signature.sockets}
    rest: dict[str, Factor] = {}
    rows: dict[str, Factor] = {}
    for name, tensor in tensors.items():
        found = _OF_FACTOR.fullmatch(name) or _OF_LAYER.fullmatch(name)
        if found is None or (found["module"] not in sockets and is_copy(name, ends)):
            rest[name] = tensor
        elif found["module"] not in sockets:
            misfits.add(f"it holds trained biases of layers that take no adapters; {MERGE}", name)
        elif (row := _row(name, tensor, found["module"], config, ends, misfits)) is not None:
            socket = sockets[found["module"]]
            rows[socket.name] = rows.get(socket.name, np.zeros(socket.out_features, np.float32)) + row
    return rest, rows


def with_biases(
    factors: Mapping[str, Pair], rows: Mapping[str, Factor], sockets: Mapping[str, Socket]
) -> dict[str, Pair]:
    """Factors whose first rank is the bias: A begins with a column of zeros, B with the row, or with zeros."""
    joined: dict[str, Pair] = {}
    for name in dict.fromkeys((*factors, *rows)):
        inner, outer = sockets[name].in_features, sockets[name].out_features
        a, b = factors.get(name) or (np.zeros((inner, 0), np.float32), np.zeros((0, outer), np.float32))
        row = rows.get(name, np.zeros(outer, np.float32))
        joined[name] = (
            np.concatenate([np.zeros((inner, 1), np.float32), a], axis=1),
            np.concatenate([row[None], b]),
        )
    return joined


def _row(
    name: str, tensor: Factor, module: str, config: LoraConfig, ends: Ends, misfits: Misfits
) -> Factor | None:
    """What one tensor adds to the layer's output [out]; None where it is wrong."""
    if not np.isfinite(tensor).all():
        misfits.add("biases have values that are not finite", name)
    elif (found := _OF_FACTOR.fullmatch(name)) is not None:
        if config.lora_bias and config.targets(module):
            return tensor * np.float32(config.scale(module))
        misfits.add("peft would ignore these biases by adapter_config.json (lora_bias, target_modules)", name)
    elif module not in ends.biases:
        misfits.add("the base's layer has no bias", name)
    else:
        found = _OF_LAYER.fullmatch(name)
        base = np.frombuffer(b64decode(ends.biases[module]), "<f4")
        assert found is not None
        if tensor.shape != base.shape:
            misfits.add(f"a bias is {list(tensor.shape)}, the base's is {list(base.shape)}", name)
        elif (found["wrapped"] is not None) != config.targets(module):
            misfits.add("peft would ignore these biases, by their names and target_modules", name)
        else:
            return tensor - base
    return None
