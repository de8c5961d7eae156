"""Replaces products of a graph by own operators that give the same bits, and attention by one that gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import onnx_ir.passes.common as passes

from ptune_kernels import attention, blocks, gated, low_rank, rounded
from ptune_kernels.find import DOMAIN

REWRITES = {
    module.PRODUCT: module.rewrite for module in (rounded, blocks)
}  # by the operator that they look for


def with_own_products(
    path: Path, product: str, units: bool, adapters: bool, attends: bool = False
) -> tuple[bytes, int]:
    """The graph at `path` with an own operator for each product of this kind, and their number; its weights stay in their file.

    units: gated units between them become operators, too. adapters: and what adapters add to them. attends: and attention.
    Where there are no such products, these are counted.
    """
    return rewritten(onnx_ir.load(path), product, units=units, adapters=adapters, attends=attends)


def rewritten(
    model: onnx_ir.Model, product: str, *, units: bool = False, adapters: bool = False, attends: bool = False
) -> tuple[bytes, int]:
    """The same of a graph in memory, which is changed. A graph with own attention says so in its metadata."""
    rounds = product in REWRITES
    count = REWRITES[product](model.graph) if rounds else 0
    if count or not rounds:
        updates = low_rank.rewrite(model, halves=rounds) if adapters else 0
        count = count or updates
    if count and units:
        gated.rewrite(model.graph)
    if attends and (layers := attention.rewrite(model.graph)):
        model.metadata_props[attention.MARK] = "own"
        count = count or layers
    return written(model), count


def written(model: onnx_ir.Model) -> bytes:
    """A graph whose nodes were replaced, without those that nothing reads any more."""
    model.graph.opset_imports[DOMAIN] = 1
    passes.RemoveUnusedNodesPass()(model)
    return onnx_ir.to_proto(model).SerializeToString()
