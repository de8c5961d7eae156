"""Fuses small operators of a traced decoder's graph into onnxruntime's larger ones.

Rules match patterns, not models: other spellings of a family stay unfused, slower but right. The base's products keep their
bits (several of one input become one product with a split); norms, rotary embedding and activation may differ in the last
bit.
"""

from __future__ import annotations

import onnx_ir

from ptune.export.fuse import activations, attention, norms, products, rotary
from ptune.export.fuse import cleanup as tidy

RULES = (
    rotary.fuse_rotary,
    norms.fuse_rms_norms,
    norms.fuse_skips,
    activations.fuse_silu,
    products.pack,
    attention.pack_attention,
)


def fuse(model: onnx_ir.Model) -> dict[str, int]:
    """Rewrites `model` in place. Returns the number of matches by the rule's name."""
    tidy.fold(model)
    counts = {}
    for rule in RULES:
        counts[rule.__name__] = rule(model.graph)
        tidy.shapes(model.graph)
    tidy.sweep(model)
    model.opset_imports.setdefault("com.microsoft", 1)
    return counts
