"""Loads pretrained image classifiers: from transformers, from timm (wrapped by transformers), or from a package."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from ptune.backbone.classifier import keep_in_float32, silent
from ptune.backbone.identity import weights_hash
from ptune.backbone.image_processor import of_processor, of_timm
from ptune.backbone.label_order import output_layers, published_outputs, put_in_order
from ptune.backbone.load import (
    in_one_sentence,
    licence_inside,
    plain_config,
    refuse_lacking,
    resolve_dtype,
    where_to_read,
)
from ptune.backbone.locate import Source, locate
from ptune.backbone.parameters import parameters_of
from ptune.codecs.image import Preprocessing
from ptune.config.recipe import Backbone
from ptune.errors import RecipeError, in_one_line
from ptune.formats.bundle import BaseIdentity
from ptune.progress import say

_HEAD_SPREAD = 0.02  # standard deviation of a new head's weights


@dataclass(frozen=True)
class LoadedImageModel:
    """A pretrained image classifier, ready to train or run."""

    model: PreTrainedModel  # in eval mode, nothing trainable yet; its config has the labels
    identity: BaseIdentity  # of the body, without head and pooler
    head: tuple[str, ...]  # modules that belong to the task, new or not; every method trains them
    preprocessing: Preprocessing


def read_preprocessing(spec: Backbone, size: int | None) -> Preprocessing:
    """The preprocessing of the backbone's processor, without reading the weights. Raises: BackboneError."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source):
        if source.timm is not None:
            timm: Any = importlib.import_module("timm")
            return of_timm(timm.data.resolve_data_config(_package_config(source, 2).pretrained_cfg), size)
        return of_processor(_processor(spec, source), size)


def load_image_model(
    spec: Backbone,
    labels: Sequence[str],
    *,
    size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LoadedImageModel:
    """Loads a backbone with a head for `labels`: the pretrained one if it has the same labels, else a new one.

    size: edge of the images, if it differs from the backbone's; seed: of a new head's weights.
    Raises: BackboneError where the model cannot be found or read; RecipeError where it does not take that size.
    """
    source, device = locate(spec.model), torch.device(device)
    say(f"loading {spec.model}")
    with in_one_sentence(spec.model, source), silent():
        preprocessing = read_preprocessing(spec, size)
        dtype = resolve_dtype(spec, device)
        torch.manual_seed(seed)
        if source.timm is not None:
            model, lacking = _of_package(source, labels)
        else:
            model, lacking = _read(spec, source, labels)
        model = model.to(dtype)
    _align(model)
    _renew(model, lacking, seed)
    _remember_size(model.config, size)
    model.requires_grad_(False).eval()
    head = tuple(sorted(lacking | set(_outputs(model, len(labels)))))
    if dtype != torch.float32:
        keep_in_float32(model, head)
    _try(model, preprocessing, spec)
    return LoadedImageModel(model.to(device), body_identity(model, spec), head, preprocessing)


def body_of(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """The name and module of a classifier's body, which outputs its hidden states: `resnet`, `vit`, `timm_model`."""
    return model.base_model_prefix, model.base_model


def beyond_body(model: PreTrainedModel) -> tuple[str, ...]:
    """Modules inside the body that follow its hidden states: a pooler, or timm's classifier."""
    _, body = body_of(model)
    if isinstance(model, TimmWrapperForImageClassification):
        return tuple(_names_of(body, _timm_classifiers(body)))
    return ("pooler",) if getattr(body, "pooler", None) is not None else ()


def body_identity(model: PreTrainedModel, spec: Backbone) -> BaseIdentity:
    """The identity of the body, whatever its head: see `ptune.backbone.classifier.body_identity`."""
    source, (_, body), beyond = locate(spec.model), body_of(model), beyond_body(model)
    return BaseIdentity(
        hash=weights_hash(body, leave_out=beyond),
        source=spec.model,
        dtype="bfloat16" if model.dtype == torch.bfloat16 else "float32",
        revision=spec.revision,
        architecture=type(body).__name__,
        parameters=parameters_of(body) - sum(parameters_of(body.get_submodule(name)) for name in beyond),
        licence=source.licence or licence_inside(spec, source) or "unknown",
    )


def save_processor(spec: Backbone, size: int | None, folder: Path) -> None:
    """Writes preprocessor_config.json beside a saved model, so that plain transformers prepares images the same way.

    timm's models have theirs in config.json.
    """
    source = locate(spec.model)
    if source.timm is not None:
        return
    with in_one_sentence(spec.model, source):
        processor = _processor(spec, source)
        if hasattr(processor, "data_config"):
            return
        if size is not None:
            _resize(processor, of_processor(processor, size))
        processor.save_pretrained(folder)


def _resize(processor: Any, preprocessing: Preprocessing) -> None:
    """Makes a transformers processor output images of another size."""
    height, width = preprocessing.size
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = {"height": height, "width": width}
        to_width, to_height = preprocessing.scaled(width, height)
    else:
        to_width, to_height = width, height
    shortest = dict(processor.size).get("shortest_edge") is not None
    processor.size = (
        {"shortest_edge": min(to_height, to_width)} if shortest else {"height": to_height, "width": to_width}
    )


def _processor(spec: Backbone, source: Source) -> Any:
    return AutoImageProcessor.from_pretrained(source.path, **where_to_read(spec, source))


def _read(spec: Backbone, source: Source, labels: Sequence[str]) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the modules that were not or must not be taken from the checkpoint. Raises: BackboneError."""
    config = plain_config(spec, source)
    outputs = published_outputs(config.id2label, labels)
    _label(config, labels)
    model, report = AutoModelForImageClassification.from_pretrained(
        source.path,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # a head for other labels
        output_loading_info=True,
        **where_to_read(spec, source),
    )
    changed = {name for name, *_ in report["mismatched_keys"]}
    lacking = {name.rpartition(".")[0] for name in report["missing_keys"] | changed}
    if outputs is None:
        lacking |= set(_outputs(model, len(labels)))
    else:
        put_in_order(model, _outputs(model, len(labels)), outputs)
    prefix = f"{model.base_model_prefix}."
    inside = sorted(name for name in lacking - set(_outputs(model, len(labels))) if name.startswith(prefix))
    inside = [name for name in inside if not name.removeprefix(prefix).startswith("pooler")]
    refuse_lacking(spec, inside)
    return model, lacking


def _outputs(model: PreTrainedModel, count: int) -> list[str]:
    """Names of the layers that output the labels' logits."""
    prefix, body = body_of(model)
    if isinstance(model, TimmWrapperForImageClassification):
        return [f"{prefix}.{name}" for name in _names_of(body, _timm_classifiers(body))]
    return output_layers(model, count)


def _timm_classifiers(body: nn.Module) -> list[nn.Module]:
    layers = body.get_classifier()
    return list(layers) if isinstance(layers, tuple | list) else [layers]


def _names_of(body: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    wanted = {id(layer) for layer in layers}
    return [name for name, layer in body.named_modules() if id(layer) in wanted]


def _align(model: nn.Module) -> None:
    """Copies weights to aligned memory: in a mapped file they start anywhere, which changes a convolution's rounding."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _renew(model: PreTrainedModel, fresh: set[str], seed: int) -> None:
    """Initialises the layers of a new head with weights that depend only on the seed."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(fresh):
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight = torch.empty(layer.weight.shape).normal_(0, _HEAD_SPREAD, generator=generator)
            layer.weight.data.copy_(weight)
            if layer.bias is not None:
                layer.bias.data.zero_()


def _label(config: PretrainedConfig, labels: Sequence[str]) -> None:
    """Sets the labels where pipelines look for them."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    if hasattr(config, "label_names"):
        config.label_names = list(labels)  # timm's own field, which is read first
    if hasattr(config, "num_classes"):
        config.num_classes = len(labels)


def _remember_size(config: PretrainedConfig, size: int | None) -> None:
    """Sets the size in the model's config, where timm's processor reads it."""
    held = getattr(config, "pretrained_cfg", None)
    if size is not None and held is not None:
        config.pretrained_cfg = {**held, "input_size": [3, size, size]}


@torch.no_grad()
def _try(model: PreTrainedModel, preprocessing: Preprocessing, spec: Backbone) -> None:
    """Raises: RecipeError where the model does not take images of this size."""
    pixels = torch.zeros(1, 3, *preprocessing.size, dtype=model.dtype)
    try:
        model(pixel_values=pixels)
    except (ValueError, RuntimeError, AssertionError) as error:
        height, width = preprocessing.size
        reason = in_one_line(error)
        raise RecipeError(
            f"backbone.model {spec.model!r} does not take images of {height} x {width} pixels ({reason}); "
            "leave task.size out to use its own"
        ) from None


def _package_config(source: Source, labels: int) -> TimmWrapperConfig:
    """The wrapper's config for a timm architecture whose weights are in a package as saved by PyTorch."""
    timm: Any = importlib.import_module("timm")
    known = timm.get_pretrained_cfg(source.timm).to_dict()
    kept = ("input_size", "interpolation", "pool_size", "first_conv", "classifier")
    held = {name: known[name] for name in kept if known.get(name) is not None}
    # The package defines how pixels are normalised but no crop: the model sees the whole image.
    held |= {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "architecture": source.timm}
    fields = {"architecture": source.timm, "pretrained_cfg": held}
    config: TimmWrapperConfig = TimmWrapperConfig.from_dict(fields, num_labels=labels)
    return config


def _of_package(source: Source, labels: Sequence[str]) -> tuple[PreTrainedModel, set[str]]:
    """The model with a package's weights, whose order and shapes match timm's but not their names; and the modules left out."""
    config = _package_config(source, len(labels))
    _label(config, labels)
    model = TimmWrapperForImageClassification(config)
    body, file = model.timm_model, next(Path(source.path).glob("*.pth"))
    fresh = _names_of(body, _timm_classifiers(body))
    held = torch.load(file, map_location="cpu", weights_only=True).values()
    pairs = dict(zip(body.state_dict(), held, strict=True))
    body.load_state_dict(
        {name: tensor for name, tensor in pairs.items() if name.rpartition(".")[0] not in fresh}, strict=False
    )
    return model, {f"{model.base_model_prefix}.{name}" for name in fresh}
