"""Loads pretrained encoder-decoders (T5, BART, Marian and similar) and their codecs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ptune.backbone.classifier import pad_id_of, silent
from ptune.backbone.load import (
    identity_of,
    in_one_sentence,
    make_plain,
    plain_config,
    read_config,
    read_tokenizer,
    refuse_lacking,
    resolve_dtype,
    where_to_read,
)
from ptune.backbone.locate import Source, locate
from ptune.backbone.tokenizer import context_of
from ptune.codecs.seq2seq import Seq2SeqCodec, Writing
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.formats.bundle import BaseIdentity
from ptune.progress import say


@dataclass(frozen=True)
class Seq2Seq:
    """A pretrained encoder-decoder."""

    model: PreTrainedModel  # in eval mode, nothing trainable yet
    identity: BaseIdentity


def is_seq2seq(spec: Backbone) -> bool:
    """Whether a backbone is an encoder-decoder. Raises: BackboneError."""
    source = locate(spec.model)
    if source.gguf is not None or source.timm is not None:
        return False
    with in_one_sentence(spec.model, source), silent():
        config = read_config(spec, source)
    return (
        bool(config.is_encoder_decoder)
        and type(config) in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    )


def load_seq2seq(
    spec: Backbone, *, device: torch.device | str | None = None, attention: str = "sdpa"
) -> Seq2Seq:
    """Loads an encoder-decoder with its head.

    attention: as in `ptune.backbone.load.load`; device: None = the GPU if there is one.
    Raises: BackboneError where the model cannot be found or read, or lacks weights.
    """
    source = locate(spec.model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    say(f"loading {spec.model}")
    dtype = resolve_dtype(spec, device)
    with in_one_sentence(spec.model, source), silent():
        plain_config(spec, source)
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            source.path,
            dtype=dtype,
            attn_implementation=None if attention == "sdpa" else attention,
            output_loading_info=True,
            **where_to_read(spec, source),
        )
        make_plain(model, source)
    refuse_lacking(spec, report["missing_keys"])
    model.requires_grad_(False).eval()
    identity = identity_of(model, spec, source, dtype)
    return Seq2Seq(model.to(device), identity)


def load_seq2seq_codec(spec: Backbone) -> Seq2SeqCodec:
    """The codec of an encoder-decoder, without reading its weights. Raises: BackboneError as `load_seq2seq`."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source), silent():
        config = read_config(spec, source)
        tokenizer = read_tokenizer(spec, source)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise BackboneError(
                f"{type(tokenizer).__name__} has no fast form; convert it to a tokenizer.json first"
            )
        texts = SequenceCodec(
            Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
            context=context_of(tokenizer, config),
            type_ids=False,
            pad_id=pad_id_of(tokenizer, config),
            special_tokens={
                name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)
            },
        )
        return Seq2SeqCodec(texts, writing_of(_generation(spec, source, config), config))


def _generation(spec: Backbone, source: Source, config: PretrainedConfig) -> GenerationConfig:
    """The model's generation config: from its own file, else from its config."""
    revision = where_to_read(spec, source).get("revision", "main")
    try:
        return GenerationConfig.from_pretrained(source.path, revision=revision)
    except OSError:
        return GenerationConfig.from_model_config(config)


def writing_of(generation: GenerationConfig, config: PretrainedConfig) -> Writing:
    """The fixed properties of a target. Raises: BackboneError if the config does not state how one begins or ends."""

    def value_of(name: str) -> Any:
        own = getattr(generation, name, None)
        return own if own is not None else getattr(config, name, None)

    start = value_of("decoder_start_token_id")
    start = value_of("bos_token_id") if start is None else start
    ends = _ids(value_of("eos_token_id"))
    if start is None or not ends:
        missing = "decoder_start_token_id" if start is None else "eos_token_id"
        raise BackboneError(f"its config has no {missing}: say there how a target begins and ends")
    banned = [word[0] for word in value_of("bad_words_ids") or [] if len(word) == 1]
    banned += _ids(value_of("suppress_tokens"))
    forced_end = _ids(value_of("forced_eos_token_id"))
    return Writing(
        start_id=int(start),
        eos_ids=tuple(ends),
        forced_bos_id=value_of("forced_bos_token_id"),
        forced_eos_id=forced_end[0] if forced_end else None,
        banned_ids=tuple(sorted({*banned})),
    )


def _ids(value: int | Sequence[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
