"""The hop from the kernels that trained the adapter to float32 on the same weights.

bitsandbytes' kernels and bfloat16 round; the served graph computes in float32 on the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from ptune.backbone.image_rows import see, shown
from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.memory import collect
from ptune.formats.bundle import Hop
from ptune.parity import Array, compare
from ptune.training.layers.lora_product import with_lora_products
from ptune.training.rows.virtual_tokens import learns_prompt
from ptune.verify.decoder.torch_side import Probe, logprobs
from ptune.verify.limits import LIVE_KERNEL_KL
from ptune.verify.reference import adapted, base_kept


def live_kernel_hops(
    backbone: Backbone, model: PreTrainedModel, adapter: Path, probes: Sequence[Probe]
) -> list[Hop]:
    """Compares the base as in training with `model`, its float32 reference, both with the adapter.

    Empty if training was in float32. backbone: its dtype must not be auto.
    """
    rounding = [kind for kind in (backbone.quantize, backbone.dtype) if kind in LIVE_KERNEL_KL]
    if not rounding:
        return []
    live = _as_trained(backbone, model, adapter, probes)
    collect()  # that model
    with base_kept(model, adapter):
        wrapped = adapted(model, adapter)
        try:
            there = logprobs(wrapped, probes)
        finally:
            if not learns_prompt(wrapped):  # or the model is as it was
                wrapped.unload()
    base = "the same base" if backbone.quantize == "none" else "the dequantised base"
    hop = compare(
        f"{rounding[0]} kernel → float32 on {base}",
        live,
        there,
        mean_kl=sum(LIVE_KERNEL_KL[kind] for kind in rounding),
        note=f"what {' and '.join(rounding)} rounds while it trains; the weights are the same",
    )
    return [hop]


def _as_trained(
    backbone: Backbone, model: PreTrainedModel, adapter: Path, probes: Sequence[Probe]
) -> list[Array]:
    """Log-probabilities [wanted, vocab] of each probe from a model of their own, which memory holds no longer than that."""
    base = load(backbone).model
    if (rows := shown(model)) is not None:
        see(base, rows)
    return logprobs(with_lora_products(adapted(base, adapter)), probes)
