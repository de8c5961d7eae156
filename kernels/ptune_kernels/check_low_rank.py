"""Checks the operator for adapters on this machine.

It adds up in an order of its own, so it is compared with the exact update, within what float32 may round; and a row with itself
in other company and with factors padded to another rank, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx_ir

from ptune_kernels import low_rank
from ptune_kernels.rewrite import written
from ptune_kernels.session import session

Arrays = dict[str, np.ndarray[Any, Any]]
GROUPS, TOKENS = 3, 6
SIZES = ((64, 16, 96), (101, 5, 33), (1536, 24, 1100))  # inputs, rank, outputs
ROUNDING = 4 * np.finfo(np.float32).eps  # of a sum, by the sum of absolute values; four times what is seen


@cache
def updates_are_right() -> str | None:
    """What is wrong with updates, in words; None where nothing is."""
    for inputs, rank, outputs in SIZES:
        for halves in (False, True):
            arrays = _arrays(np.random.default_rng(inputs), inputs, rank, outputs, halves)
            model = plain(inputs, outputs, ones=not halves)
            if low_rank.rewrite(model, halves=halves) != 1:
                return "its own update is not recognised"
            graph = session(written(model))
            found = _run(graph, arrays)
            if not _close(found, arrays):
                return f"an update of {inputs} numbers is not what its factors say"
            if any(not np.array_equal(*pair) for pair in _again(graph, arrays, found)):
                return f"an update of {inputs} numbers gives other bits in other company"
    return None


def plain(inputs: int, outputs: int, *, ones: bool) -> onnx_ir.Model:
    """A graph base, x, lora_mask (lora_ones), A, B -> y, as ptune.export.decoder.sockets writes it."""
    floats = onnx_ir.DataType.FLOAT
    shapes: dict[str, list[int | str]] = {
        "base": ["groups", "tokens", outputs], "x": ["groups", "tokens", inputs], "lora_mask": ["groups", "tokens", "R"],
        "lora_ones": ["groups", "tokens", "R"], "A": ["G", inputs, "R"], "B": ["G", "R", outputs],
    }  # fmt: skip
    values = {
        name: onnx_ir.val(name, floats, shape)
        for name, shape in shapes.items()
        if ones or name != "lora_ones"
    }
    nodes: list[onnx_ir.Node] = []

    def add(kind: str, *of: onnx_ir.Value) -> onnx_ir.Value:
        nodes.append(onnx_ir.node(kind, of))
        return nodes[-1].outputs[0]

    low = add("Mul", add("MatMul", values["x"], values["A"]), values["lora_mask"])
    low = add("Add", low, values["lora_ones"]) if ones else low
    y = add("Add", values["base"], add("MatMul", low, values["B"]))
    y.name, y.dtype, y.shape = "y", floats, values["base"].shape
    graph = onnx_ir.Graph([*values.values()], [y], nodes=nodes, opset_imports={"": 20})
    return onnx_ir.Model(graph, ir_version=10)


def _arrays(random: np.random.Generator, inputs: int, rank: int, outputs: int, halves: bool) -> Arrays:
    """Random inputs; the second group's adapters are those of few tokens, and the last token of each group has none."""
    shapes = {"base": (GROUPS, TOKENS, outputs), "x": (GROUPS, TOKENS, inputs),
              "A": (GROUPS, inputs, rank), "B": (GROUPS, rank, outputs)}  # fmt: skip
    arrays: Arrays = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    mask = np.zeros((GROUPS, TOKENS, rank), np.float32)
    mask[:, :-1] = 1
    mask[1, 1:] = 0
    arrays["lora_mask"] = mask
    if halves:
        return arrays | {name: arrays[name].astype(np.float16) for name in "AB"}
    arrays["lora_ones"] = np.zeros_like(mask)
    arrays["lora_ones"][:, :3, 0] = mask[:, :3, 0]
    return arrays


def _close(found: np.ndarray[Any, Any], arrays: Arrays) -> bool:
    exact: Arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    ones = exact.get("lora_ones", np.zeros(()))
    y = exact["base"] + (exact["x"] @ exact["A"] * exact["lora_mask"] + ones) @ exact["B"]
    size = {name: np.abs(array) for name, array in exact.items()}
    most = size["base"] + (size["x"] @ size["A"] * exact["lora_mask"] + ones) @ size["B"]
    return bool((np.abs(found - y) <= ROUNDING * most).all())


def _again(graph: Any, arrays: Arrays, found: np.ndarray[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs of the same rows: those of the base, single rows, and all with factors that are padded with zeros."""
    yield found[:, -1], arrays["base"][:, -1]
    for group, token in ((0, 0), (1, 0), (2, 4)):
        one = {
            name: array[group : group + 1] if name in "AB" else array[group : group + 1, token : token + 1]
            for name, array in arrays.items()
        }
        yield _run(graph, one)[0, 0], found[group, token]
    padding = {"A": ((0, 0), (0, 0), (0, 7)), "B": ((0, 0), (0, 7), (0, 0))}
    for name in ("lora_mask", "lora_ones"):
        padding[name] = ((0, 0), (0, 0), (0, 7))
    padded = {name: np.pad(a, padding[name]) if name in padding else a for name, a in arrays.items()}
    yield _run(graph, padded), found


def _run(graph: Any, arrays: Arrays) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = graph.run(None, packed(arrays, arrays["A"].dtype))[0]
    return found


def packed(arrays: Arrays, kind: Any) -> Arrays:
    """Inputs of `plain` as the rewritten graph takes them: an adapter's factors in a line, of this type."""
    a, b = arrays["A"], arrays["B"]
    panels = np.split(b, range(low_rank.COLUMNS, b.shape[2], low_rank.COLUMNS), axis=2)
    lines = [part.reshape(len(part), -1) for part in (a, *panels)]
    given = {name: array for name, array in arrays.items() if name not in "AB"}
    return given | {low_rank.FACTORS: np.concatenate(lines, axis=1).astype(kind)}
