"""The decoder inside a model that sees images: what adapters go beside, while the rest stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def text_part(model: PreTrainedModel) -> str:
    """The name of the decoder inside a model that turns images into features; empty for a model of text alone.

    The output head stands beside it.
    """
    if not hasattr(model, "get_image_features"):
        return ""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)
