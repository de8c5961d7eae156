"""Replaces products of a graph by own operators that give the same bits."""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import onnx_ir.passes.common as passes

from ptune_kernels import blocks, gated, low_rank, rounded
from ptune_kernels.find import DOMAIN

REWRITES = {
    module.PRODUCT: module.rewrite for module in (rounded, blocks)
}  # by the operator that they look for


def with_own_products(path: Path, product: str, units: bool, adapters: bool) -> tuple[bytes, int]:
    """The graph at `path` with an own operator for each product of this kind, and their number; its weights stay in their file.

    units: gated units between them become operators, too. adapters: and what adapters add to them.
    """
    return rewritten(onnx_ir.load(path), product, units=units, adapters=adapters)


def rewritten(
    model: onnx_ir.Model, product: str, *, units: bool = False, adapters: bool = False
) -> tuple[bytes, int]:
    """The same of a graph in memory, which is changed."""
    if product == low_rank.PRODUCT:
        count = low_rank.rewrite(model)
        return written(model), count
    count = REWRITES[product](model.graph)
    if count and adapters:
        low_rank.rewrite(model, halves=True)
    if count and units:
        gated.rewrite(model.graph)
    return written(model), count


def written(model: onnx_ir.Model) -> bytes:
    """A graph whose nodes were replaced, without those that nothing reads any more."""
    model.graph.opset_imports[DOMAIN] = 1
    passes.RemoveUnusedNodesPass()(model)
    return onnx_ir.to_proto(model).SerializeToString()
