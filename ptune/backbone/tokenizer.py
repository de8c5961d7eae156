"""Converts a transformers tokenizer to ptune's codec, and back for a plain transformers folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ptune.backbone.new_tokens import add_tokens
from ptune.backbone.rope import EXTENDED
from ptune.backbone.vision_language import sees_images, vision_of
from ptune.codecs.chat import ChatCodec
from ptune.codecs.served_template import served_template
from ptune.codecs.vision import Vision
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor


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

    Raises: BackboneError where the tokenizer has no fast form or tokens that the model lacks, or a new token cannot be added.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BackboneError(
            f"{type(tokenizer).__name__} has no fast form; convert it to a tokenizer.json first"
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    _refuse_rowless(backend, getattr(model.config.get_text_config(), "vocab_size", None))
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


def _refuse_rowless(tokenizer: Tokenizer, rows: int | None) -> None:
    """Raises: BackboneError where a text may become a token that the embedding has no row for. Special tokens no text becomes."""
    special = {token for token, one in tokenizer.get_added_tokens_decoder().items() if one.special}
    known = tokenizer.get_vocab(with_added_tokens=True)
    lacking = {token: text for text, token in known.items() if rows is not None and token >= rows}
    named = [text for token, text in sorted(lacking.items()) if token not in special]
    if named:
        raise BackboneError(
            f"its tokenizer has {len(named)} tokens beyond the {rows:,} rows of its embedding, the first {named[0]!r}: take"
            " them out of tokenizer.json, or give the embedding rows for them (resize_token_embeddings in transformers)"
        )


def transformers_tokenizer(codec: ChatCodec) -> PreTrainedTokenizerFast:
    """The codec's tokenizer for transformers, with the chat template as it is served; its `save_pretrained` completes a model folder."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=codec.tokenizer, **codec.special_tokens)
    if (template := served_template(codec)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def save_folder(
    model: PreTrainedModel, codec: ChatCodec, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Writes a plain transformers folder, whose answers end where the codec's do: a chat template's end is often no end of the base's.

    state: replaces the model's own weights, which may be sharded.
    """
    model.save_pretrained(folder, state_dict=state)
    ends = sorted(codec.eos_ids)
    if ends and model.generation_config is not None:
        settings = copy.copy(model.generation_config)
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
        settings.save_pretrained(folder)
    transformers_tokenizer(codec).save_pretrained(folder)


def context_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int | None:
    """Longest sequence in tokens; transformers marks "unknown" in a tokenizer by a huge number."""
    config = config.get_text_config()
    if (extended := getattr(config, EXTENDED, None)) is not None:
        return int(extended)  # set by the user; the tokenizer only states the published length
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit is not None and limit < 10**9]
    return min(known) if known else None
