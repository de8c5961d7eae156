"""Converts a backbone's own image processor, from transformers or timm, into a `Preprocessing`."""

from __future__ import annotations

import math
from typing import Any

from ptune.codecs.image import Preprocessing
from ptune.errors import BackboneError

_PIL_FILTERS = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)  # in the order of Pillow's numbers
_UNKNOWN = ("do_flip_channel_order", "do_reduce_labels", "do_crop_margin", "do_pad")


def of_processor(processor: Any, size: int | None = None) -> Preprocessing:
    """The preprocessing of a transformers image processor. size: edge of the square input, if not the processor's own.

    Raises: BackboneError where it does something that is not reproduced here.
    """
    if hasattr(processor, "data_config"):
        return of_timm(processor.data_config, size)
    fields = processor.to_dict()
    unsupported = [name for name in _UNKNOWN if fields.get(name)]
    if unsupported or not fields.get("do_resize"):
        reason = f"it wants {unsupported[0]}" if unsupported else "it does not resize"
        raise BackboneError(f"the image processor {type(processor).__name__} cannot be reproduced: {reason}")
    mean, std = _normalisation(fields)
    return Preprocessing.model_validate(
        {
            **_geometry(fields, type(processor).__name__, size),
            "interpolation": _PIL_FILTERS[int(fields.get("resample") or 0)],
            "corner": "down",
            "mean": mean,
            "std": std,
        }
    )


def of_tiles(processor: Any) -> Preprocessing:
    """The preprocessing of one tile, by a transformers image processor that cuts images into tiles. Raises: BackboneError."""
    fields = processor.to_dict()
    named = {"max_image_size": "longest_edge", "crop_size": "height", "size": "height"}
    edges = (dict(fields.get(name) or {}).get(key) for name, key in named.items())
    edge = next((int(edge) for edge in edges if edge), None)
    if fields.get("merge_size"):  # in patches, some of which are merged into one row
        edge = int(fields["patch_size"]) * int(fields["merge_size"])
    if edge is None:
        raise BackboneError(
            f"the image processor {type(processor).__name__} does not say how large its tiles are"
        )
    mean, std = _normalisation(fields)
    return Preprocessing.model_validate(
        {
            "size": (edge, edge),
            "fit": "both",
            "interpolation": _PIL_FILTERS[int(fields.get("resample") or 0)],
            "mean": mean,
            "std": std,
        }
    )


def of_timm(config: dict[str, Any], size: int | None = None) -> Preprocessing:
    """The preprocessing of timm's evaluation transform. config: the result of `timm.data.resolve_data_config`."""
    channels, height, width = config["input_size"]
    if channels != 3:
        raise BackboneError(f"the model takes images of {channels} channels; only RGB is supported")
    mode, mean = config["crop_mode"], config["mean"]
    return Preprocessing.model_validate(
        {
            "size": (size, size) if size else (height, width),
            "crop_share": config["crop_pct"],
            "fit": {"center": "shortest", "squash": "both", "border": "longest"}[mode],
            "interpolation": config["interpolation"],
            "corner": "even",
            "fill": [round(255 * value) for value in mean] if mode == "border" else [0, 0, 0],
            "mean": mean,
            "std": config["std"],
        }
    )


def _geometry(fields: dict[str, Any], named: str, size: int | None) -> dict[str, Any]:
    """`size`, `crop_share` and `fit` of a transformers processor. Raises: BackboneError."""
    sizes = {name: int(value) for name, value in dict(fields.get("size") or {}).items() if value is not None}
    if named.startswith("ConvNext"):  # below 384 pixels it crops, else it squeezes
        edge = size or sizes["shortest_edge"]
        share = float(fields.get("crop_pct") or 224 / 256) if edge < 384 else 1.0
        return {"size": (edge, edge), "crop_share": share, "fit": "shortest" if edge < 384 else "both"}
    if sizes.keys() == {"shortest_edge"}:
        scaled, fit = (sizes["shortest_edge"], sizes["shortest_edge"]), "shortest"
    elif sizes.keys() == {"height", "width"}:
        scaled, fit = (sizes["height"], sizes["width"]), "both"
    else:
        raise BackboneError(
            f"the image processor {named} resizes by {', '.join(sizes)}: that is not supported"
        )
    seen = scaled
    if fields.get("do_center_crop"):
        seen = int(fields["crop_size"]["height"]), int(fields["crop_size"]["width"])
    crop_share = _share(seen, scaled)
    if crop_share is None:
        raise BackboneError(f"the image processor {named} crops {scaled} to {seen}: that is not supported")
    return {"size": (size, size) if size else seen, "crop_share": crop_share, "fit": fit}


def _share(seen: tuple[int, int], scaled: tuple[int, int]) -> float | None:
    """The share with floor(seen / share) == scaled for both sides; None if there is none."""
    exact = seen[0] / scaled[0]
    for share in (exact, math.nextafter(exact, 0)):
        if all(math.floor(one / share) == whole for one, whole in zip(seen, scaled, strict=True)):
            return share
    return None


def _normalisation(fields: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for pixels from 0 to 1, including rescaling and offsets."""
    factor = float(fields.get("rescale_factor") or 1 / 255) if fields.get("do_rescale", True) else 1.0
    offset = 1.0 if fields.get("rescale_offset") else 0.0  # EfficientNet's
    normalises = bool(fields.get("do_normalize"))
    mean = _three(fields["image_mean"]) if normalises else [0.0] * 3
    std = _three(fields["image_std"]) if normalises else [1.0] * 3
    again = _three(fields["image_std"]) if fields.get("include_top") else [1.0] * 3  # EfficientNet's, too
    whole = 255 * factor  # what a pixel of 1 is scaled to
    return (
        [(one + offset) / whole for one in mean],
        [one * other / whole for one, other in zip(std, again, strict=True)],
    )


def _three(value: float | list[float]) -> list[float]:
    return [float(value)] * 3 if isinstance(value, int | float) else [float(one) for one in value]
