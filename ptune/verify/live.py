"""The hop from bitsandbytes' live kernels, which trained the adapter, to float32 on the weights they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from torch import nn

from ptune.backbone.load import load
from ptune.formats.bundle import Hop
from ptune.parity import compare
from ptune.recipe import Backbone
from ptune.verify.limits import LIVE_KERNEL_KL
from ptune.verify.torch_side import Probe, logprobs


def live_kernel_hop(backbone: Backbone, model: nn.Module, adapter: Path, probes: Sequence[Probe]) -> Hop:
    """Compares the quantised model as it trained with `model`, the dequantised reference, both with the adapter."""
    live = logprobs(PeftModel.from_pretrained(load(backbone).model, str(adapter)), probes)
    wrapped = PeftModel.from_pretrained(model, str(adapter))
    try:
        there = logprobs(wrapped, probes)
    finally:
        wrapped.unload()
    return compare(
        f"{backbone.quantize} kernel → float32 on the dequantised base",
        live,
        there,
        mean_kl=LIVE_KERNEL_KL[backbone.quantize],
        note="bitsandbytes' own rounding, not ptune's",
    )
