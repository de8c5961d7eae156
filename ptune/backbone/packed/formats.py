"""The table of formats that ready-made checkpoints are read in, beside bitsandbytes' (`ptune.backbone.packed_folder`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ptune.backbone.packed import awq, compressed_tensors, fp8, gptq, mxfp4
from ptune.backbone.packed.layout import Layout
from ptune.formats.bundle import Stored

Layouts = Callable[[str], Layout]
"""The layout of each packed weight, by the name of its layer in the files."""


@dataclass(frozen=True)
class Format:
    """A format: how its weights are found among the names of a checkpoint's tensors."""

    name: Stored  # `quant_method` in the config, and `backbone.quantize`
    marker: (
        str  # the end of the name of a tensor that every packed weight has; before it stands its layer's name
    )
    target: str  # the name of the weight that is packed
    tensors: Mapping[str, str]  # the format's own name for a tensor -> its name in the files
    layouts: Callable[[Mapping[str, Any]], Layouts]  # from `quantization_config`
    of_linears: bool = True  # whether linear layers are packed; else other weights alone

    def layers(self, names: Iterable[str]) -> Iterator[str]:
        """The layers that have packed weights."""
        return (name.removesuffix(self.marker) for name in names if name.endswith(self.marker))


def _under_layer(*names: str) -> dict[str, str]:
    return {name: f"{{}}.{name}" for name in names}


FORMATS: tuple[Format, ...] = (
    Format(
        "gptq",
        ".qweight",
        "{}.weight",
        _under_layer("qweight", "qzeros", "scales", "g_idx"),
        gptq.layouts,
    ),
    Format("awq", ".qweight", "{}.weight", _under_layer("qweight", "qzeros", "scales"), awq.layouts),
    # The weights of a mixture's experts are no layers of their own, so the name before the marker is the weight's.
    Format("fp8", "_scale_inv", "{}", {"fp8": "{}", "scale": "{}_scale_inv"}, fp8.layouts),
    Format(
        "compressed-tensors",
        ".weight_scale",
        "{}.weight",
        _under_layer(
            "weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"
        ),
        compressed_tensors.layouts,
    ),
    Format(
        "mxfp4",
        "_blocks",
        "{}",
        {"blocks": "{}_blocks", "scales": "{}_scales"},
        mxfp4.layouts,
        of_linears=False,
    ),
)

BY_METHOD: dict[str, Format] = {row.name: row for row in FORMATS}
