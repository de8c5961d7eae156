"""Models that read images beside text: which of them are supported, how they show an image in a prompt, and their parts.

A supported model turns an image into rows of features that take the place of embeddings, and is a causal decoder behind that:
one position for each token, one direction of attention. What a prompt shows for an image is found by asking the model's own
processor, so a family needs no code here.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from ptune.backbone.tiling import Asking
from ptune.codecs.vision import Vision
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.methods.text_part import text_part


def sees_images(config: PretrainedConfig) -> bool:
    """Whether a model reads images beside text."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and "vision_config" in config.sub_configs


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads the language model, or the one that sees, which `config` describes."""
    return AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM


def why_blind(config: PretrainedConfig) -> str | None:
    """Why a model that sees images is not supported; None if it is, as far as its config says."""
    text = config.get_text_config()
    if in_three_dimensions(config) and hasattr(config.vision_config, "num_position_embeddings"):
        return "adds what its tower sees to several layers (DeepStack), or stretches its tower's table of positions"
    others = sorted({*config.sub_configs} - {"text_config", "vision_config"})
    if others:
        return f"has a {others[0]} beside its vision_config"
    alone = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING or in_three_dimensions(config)
    if config.is_encoder_decoder or not alone:
        return f"has a text model ({text.model_type}) that is no causal language model by itself"
    if getattr(config, "image_token_id", None) is None:
        return "has no token for images in its config"
    if not hasattr(_class_of(config), "get_image_features"):
        return "reads images by other means than rows of features among its embeddings"
    if _both_ways(config):
        return "lets the tokens of an image see those that follow them (bidirectional attention)"
    return None


def check_sees(spec: Backbone, config: PretrainedConfig) -> None:
    """Raises: BackboneError in one sentence for a model that sees images and is not supported, or not as `spec` wants it."""
    if not sees_images(config):
        return
    if (reason := why_blind(config)) is not None:
        raise BackboneError(
            f"{spec.model} ({config.model_type}) {reason}, which ptune does not train yet: take a model that sees images as"
            " LLaVA does, or the text model alone"
        )
    wanted = {
        "quantize": spec.quantize not in ("none", "nf4", "int8"), "stream": spec.stream, "keep_layers": spec.keep_layers, "new_tokens": spec.new_tokens,
    }  # fmt: skip
    for name, value in wanted.items():
        if value:
            raise BackboneError(
                f"backbone.{name} is for models that read text alone, and {spec.model} sees images: leave it out"
            )


def in_three_dimensions(config: PretrainedConfig) -> bool:
    """Whether tokens of images have positions in three dimensions (M-RoPE)."""
    return sees_images(config) and hasattr(MODEL_MAPPING[type(config)], "get_rope_index")


def _both_ways(config: PretrainedConfig) -> bool:
    """Whether the model's code has a mask for the tokens of an image. For M-RoPE it also takes which they are, without one."""
    if in_three_dimensions(config):
        return False
    forward = inspect.signature(_class_of(config).forward).parameters
    return "token_type_ids" in forward or "mm_token_type_ids" in forward


def _class_of(config: PretrainedConfig) -> Any:
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    return kind[0] if isinstance(kind, tuple) else kind


def vision_of(spec: Backbone, path: str, config: PretrainedConfig, **where: Any) -> tuple[Vision, str | None]:
    """How prompts show images, and the chat template of the model's processor. Raises: BackboneError."""
    try:
        processor = AutoProcessor.from_pretrained(path, **where)
    except ImportError as error:
        raise BackboneError(
            f"the processor of {spec.model} cannot be loaded: {' '.join(str(error).split())}"
        ) from error
    vision = Asking(spec.model, processor, int(config.image_token_id), config.vision_config).vision()
    template = getattr(processor, "chat_template", None)
    return vision, template if isinstance(template, str) else None


def only_text(model: PreTrainedModel) -> PreTrainedModel:
    """Removes everything that turns images into features; the names of the rest stay. Returns the model."""
    if name := text_part(model):
        parent = model.get_submodule(name.rpartition(".")[0])
        for child, _ in [*parent.named_children()]:
            if child != name.rpartition(".")[2]:
                setattr(parent, child, None)
    return model


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the decoder."""
    return config.get_text_config() if sees_images(config) else config
