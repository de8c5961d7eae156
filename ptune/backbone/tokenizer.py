"""Converts a transformers tokenizer to ptune's codec, and back for a plain transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ptune.backbone.new_tokens import add_tokens
from ptune.backbone.rope import EXTENDED
from ptune.backbone.vision_language import sees_images, vision_of
from ptune.codecs.chat import ChatCodec
from ptune.codecs.template_request import with_defaults
from ptune.codecs.vision import Vision
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError


def codec_for(
    spec: Backbone,
    path: str,
    where: dict[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> ChatCodec:
    """The codec of a model at `path`; of one that sees images with what its processor knows. where: how it is read there."""
    if not sees_images(model.config):
        return codec_of(tokenizer, model, spec.new_tokens)
    vision, template = vision_of(spec, path, model.config, **where)
    tokenizer.chat_template = tokenizer.chat_template or template
    return codec_of(tokenizer, model, spec.new_tokens, vision)


def codec_of(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    new_tokens: Sequence[str] = (),
    vision: Vision | None = None,
) -> ChatCodec:
    """The codec that trains and serves this model, with `new_tokens`. vision: of a model that sees images.

    Raises: BackboneError where the tokenizer has no fast form, or a new token cannot be added.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BackboneError(
            f"{type(tokenizer).__name__} has no fast form; convert it to a tokenizer.json first"
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    add_tokens(backend, new_tokens)
    template = tokenizer.chat_template
    ends = getattr(model.generation_config, "eos_token_id", None)
    return ChatCodec(
        tokenizer=backend,
        template=template.get("default") if isinstance(template, dict) else template,
        special_tokens={
            name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)
        },
        eos_ids=[] if ends is None else [ends] if isinstance(ends, int) else ends,
        context=context_of(tokenizer, model.config),
        vision=vision,
    )


def transformers_tokenizer(codec: ChatCodec) -> PreTrainedTokenizerFast:
    """The codec's tokenizer for transformers; its `save_pretrained` completes a model folder."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=codec.tokenizer, **codec.special_tokens)
    if codec.template is not None:
        tokenizer.chat_template = with_defaults(codec.template.source, codec.defaults.chat_template_kwargs)
    return tokenizer


def context_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int | None:
    """Longest sequence in tokens; transformers marks "unknown" in a tokenizer by a huge number."""
    config = config.get_text_config()
    if (extended := getattr(config, EXTENDED, None)) is not None:
        return int(extended)  # set by the user; the tokenizer only states the published length
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit is not None and limit < 10**9]
    return min(known) if known else None
