"""A traced decoder's graph, with the operators that onnxruntime has for what it says in many small ones.

Rules look for a pattern, not for a model: what a family writes otherwise stays as it is, slower and not wrong. The base's
products keep their numbers bit by bit (several of one input become one product with a split); norms, rotary embedding and
activation round otherwise in the last place.
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
    """Rewrites `model` in place. Returns how often each rule found its pattern, by the rule's name."""
    tidy.fold(model)
    found = {}
    for rule in RULES:
        found[rule.__name__] = rule(model.graph)
        tidy.shapes(model.graph)
    tidy.sweep(model)
    model.opset_imports.setdefault("com.microsoft", 1)
    return found
