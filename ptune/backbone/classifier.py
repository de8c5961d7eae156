"""Loads a pretrained encoder, or the body of a causal language model, with a head that classifies texts or tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from accelerate import init_empty_weights
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ptune.backbone.identity import weights_hash
from ptune.backbone.label_order import output_layers, published_outputs, put_in_order
from ptune.backbone.load import (
    in_one_sentence,
    licence_inside,
    make_plain,
    plain_config,
    read_config,
    read_tokenizer,
    refuse_lacking,
    resolve_dtype,
    where_to_read,
)
from ptune.backbone.locate import Source, locate
from ptune.backbone.parameters import parameters_of
from ptune.backbone.tokenizer import context_of
from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.formats.bundle import BaseIdentity
from ptune.progress import say

_KINDS = {"text": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}
_PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
    "tags": None,
}
_POOLER = "pooler"
# Models whose positions start after the padding's: they take two tokens fewer than they have positions.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "data2vec-text")


@dataclass(frozen=True)
class Classifier:
    """A pretrained body with a head, which is new unless the checkpoint had one."""

    model: PreTrainedModel  # in eval mode, nothing trainable yet
    identity: BaseIdentity  # of the body only, see `body_identity`
    head: tuple[str, ...]  # names of the modules that belong to the task, not to the body
    fresh: frozenset[str] = frozenset()  # names of the weights that the checkpoint lacked

    def start_at(self, shares: torch.Tensor) -> None:
        """Gives a new head the bias with which it answers `shares` [labels], whatever the input; none without a bias."""
        logits = shares.log()
        for name, bias in self.model.named_parameters():
            if name in self.fresh and name.endswith("bias") and bias.shape == logits.shape:
                with torch.no_grad():
                    bias.copy_(logits)


def load_classifier(
    spec: Backbone,
    kind: Literal["text", "tokens"],
    labels: Labels,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    attention: str = "sdpa",
) -> Classifier:
    """Loads a backbone with a head for `labels`; head weights that the checkpoint lacks are initialised from `seed`.

    attention: as in `ptune.backbone.load.load`; device: None = the GPU if there is one.

    Raises: BackboneError where the model cannot be found or read, or lacks weights of its body.
    """
    source = locate(spec.model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    say(f"loading {spec.model}")
    dtype = resolve_dtype(spec, device)
    with in_one_sentence(spec.model, source), silent():
        model, fresh = _read(spec, source, kind, labels, dtype, attention, seed)
    head = head_modules(model, fresh)
    lacking = sorted(name for name in fresh if not name.startswith(tuple(f"{module}." for module in head)))
    refuse_lacking(spec, lacking)
    model.requires_grad_(False).eval()
    if dtype != torch.float32:
        keep_in_float32(model, head)
    return Classifier(model.to(device), body_identity(model, spec, head, source), head, frozenset(fresh))


def _read(
    spec: Backbone,
    source: Source,
    kind: Literal["text", "tokens"],
    labels: Labels,
    dtype: torch.dtype,
    attention: str,
    seed: int,
) -> tuple[PreTrainedModel, set[str]]:
    """The model and the names of the weights that the checkpoint lacks."""
    outputs = published_outputs(plain_config(spec, source).id2label, labels.names)
    config = _config(spec, source, labels)
    torch.manual_seed(seed)
    model, report = _KINDS[kind].from_pretrained(
        source.path,
        config=config,
        dtype=dtype,
        attn_implementation=None if attention == "sdpa" else attention,  # None: sdpa where the model has it
        ignore_mismatched_sizes=True,  # a head for other labels
        output_loading_info=True,
        **where_to_read(spec, source),
    )
    make_plain(model, source)
    if outputs is not None:
        put_in_order(model, output_layers(model, len(labels)), outputs)
    return model, {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}


def _config(spec: Backbone, source: Source, labels: Labels) -> PretrainedConfig:
    config = plain_config(spec, source)
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: index for index, name in enumerate(labels.names)}
    config.problem_type = _PROBLEMS[labels.problem]
    config.use_cache = False  # of a causal model: nothing is ever generated
    config.pad_token_id = pad_id_of(read_tokenizer(spec, source), config)
    return config


def empty_classifier(spec: Backbone, kind: Literal["text", "tokens"], labels: Labels) -> PreTrainedModel:
    """The model that `load_classifier` would load, built from the config only: all weights are zero, none is read.

    Raises: BackboneError where the model cannot be found or its config cannot be read.
    """
    source = locate(spec.model)
    with in_one_sentence(spec.model, source), silent():
        config = _config(spec, source, labels)
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = _KINDS[kind].from_config(
                config, dtype=torch.float32, trust_remote_code=spec.trust_remote_code
            )
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.zeros(parameter.shape), requires_grad=False))
    return model.eval()


def head_modules(model: PreTrainedModel, fresh: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the modules that belong to the task: all with weights outside the body, and a pooler that is not
    pretrained. fresh: names of the weights that the checkpoint lacks.
    """
    body = model.base_model_prefix
    outside = [
        name
        for name, module in model.named_children()
        if name != body and any(True for _ in module.parameters())
    ]
    pooler = f"{body}.{_POOLER}"
    return (*([pooler] if any(name.startswith(f"{pooler}.") for name in fresh) else []), *outside)


def body_identity(
    model: PreTrainedModel, spec: Backbone, head: Collection[str] = (), source: Source | None = None
) -> BaseIdentity:
    """The identity of the body that an adapter belongs to: the same under any head, and for the bare encoder.

    The pooler is left out, pretrained or not: everything after the last hidden states belongs to the head. `model` is a
    bare encoder, or one with a head whose modules `head` names.
    """
    source = source or locate(spec.model)
    body = model.base_model
    prefix = f"{model.base_model_prefix}." if body is not model else ""
    inside = [name.removeprefix(prefix) for name in head if name.startswith(prefix)] if prefix else list(head)
    left_out = {_POOLER, *inside}
    own = sum(parameters_of(part) for name, part in body.named_children() if name in left_out)
    return BaseIdentity(
        hash=weights_hash(body, leave_out=sorted(left_out)),
        source=spec.model,
        quantize=spec.quantize,
        dtype="bfloat16" if model.dtype == torch.bfloat16 else "float32",
        revision=spec.revision,
        architecture=type(body).__name__,
        parameters=parameters_of(body) - own,
        licence=source.licence or licence_inside(spec, source) or "unknown",
        context=spec.context,
    )


def load_sequence_codec(spec: Backbone) -> SequenceCodec:
    """The codec of a text encoder, without reading its weights. Raises: BackboneError as `load_classifier`."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source), silent():
        config = read_config(spec, source)
        tokenizer = read_tokenizer(spec, source)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise BackboneError(
                f"{type(tokenizer).__name__} has no fast form; convert it to a tokenizer.json first"
            )
        context = context_of(tokenizer, config)
        if config.model_type in _POSITIONS_AFTER_PADDING:
            context = min(context or config.max_position_embeddings, config.max_position_embeddings - 2)
        return SequenceCodec(
            Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
            context=context,
            type_ids=getattr(config, "type_vocab_size", 0) > 1,
            pad_id=pad_id_of(tokenizer, config),
            special_tokens={
                name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)
            },
        )


def plain_tokenizer(codec: SequenceCodec, max_length: int | None) -> PreTrainedTokenizerFast:
    """The codec's tokenizer for transformers; its `save_pretrained` completes a model folder for `pipeline`."""
    special = {"pad_token": codec.tokenizer.id_to_token(codec.pad_id), **codec.special_tokens}
    inputs = ["input_ids", *(["token_type_ids"] if codec.type_ids else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=codec.tokenizer,
        model_max_length=codec.limit(max_length),
        model_input_names=inputs,
        split_special_tokens=True,
        **special,
    )


def pad_id_of(tokenizer: transformers.PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """The padding token: the tokenizer's, else the model's, else the end-of-text token."""
    ends = tokenizer.eos_token_id
    known = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), ends)
    return next((int(token) for token in known if token is not None and token >= 0), 0)


def keep_in_float32(model: PreTrainedModel, head: Collection[str]) -> None:
    """Keeps fully trained modules in float32, whatever the body computes in: 16 bits would lose small updates."""

    def widened(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.float() if torch.is_tensor(value) else value for value in inputs)

    for name in head:
        module = model.get_submodule(name).float()
        module.register_forward_pre_hook(widened)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silences transformers' long report that a head is not pretrained, which is expected."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
