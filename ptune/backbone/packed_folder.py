"""What model folders are stored in; and those whose weights bitsandbytes has packed, such as `*-bnb-4bit` on the hub, read as they are.

Other formats: `ptune.backbone.packed`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import transformers
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import PreTrainedModel

from ptune.backbone.nf4_bytes import BLOCK
from ptune.backbone.packed.formats import BY_METHOD
from ptune.backbone.packed.settings import ORIGINAL
from ptune.backbone.quantize import Int8Linear, Nf4Linear, Quantization
from ptune.errors import BackboneError
from ptune.formats.bundle import Stored


def packed_as(config: transformers.PretrainedConfig, named: str) -> Quantization | Stored | None:
    """How the weights behind a published config are packed; None: they are not.

    named: the model, as the user named it. Raises: BackboneError if they are packed in a way that ptune does not have.
    """
    if (why := why_not_read(config)) is not None:
        raise BackboneError(f"backbone.model {named!r} {why}")
    settings = settings_in(config)
    if settings is None:
        return None
    if (method := _method(settings)) in BY_METHOD:
        return BY_METHOD[method].name
    return "int8" if settings.get("load_in_8bit") else "nf4"


def why_not_read(config: transformers.PretrainedConfig) -> str | None:
    """Why packed weights cannot be read, as what is said of the model; None: they can, or are not packed."""
    settings = settings_in(config)
    if settings is None:
        return None
    method = _method(settings)
    if method in BY_METHOD:
        try:
            BY_METHOD[method].layouts(settings)
        except BackboneError as error:
            return str(error)
        return None
    if method != "bitsandbytes":
        known = ", ".join(("bitsandbytes", *BY_METHOD))
        return f"was saved in {method or 'an unnamed format'}, and ptune reads {known}; {ORIGINAL}"
    if not settings.get("load_in_8bit"):
        for name, ours in {"bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "uint8"}.items():
            if settings.get(name, ours) != ours:
                return f"was saved with {name} {settings[name]!r}, and ptune reads {ours!r}; {ORIGINAL}"
    return None


def settings_in(config: transformers.PretrainedConfig) -> dict[str, Any] | None:
    """How the weights were packed, as whoever saved them says it."""
    settings = getattr(config, "quantization_config", None)
    return settings if settings is None or isinstance(settings, dict) else settings.to_dict()


def _method(settings: dict[str, Any]) -> str:
    """Its name, as `quant_method` says it."""
    method = settings.get("quant_method") or ""
    return str(getattr(method, "value", method))


def settings_of(kind: Quantization, kept: list[str]) -> dict[str, Any]:
    """A config's `quantization_config` for weights that are packed in `kind`, all but the layers `kept`."""
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=kind == "nf4",
        load_in_8bit=kind == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=kept,
    )
    described: dict[str, Any] = settings.to_dict()
    return described


def take_over(model: PreTrainedModel, kind: Quantization, dtype: torch.dtype, named: str) -> None:
    """Makes a model that transformers has read from packed weights what `ptune.backbone.quantize` makes; in place.

    dtype: of the base. The packed weights stand for values in it.
    Raises: BackboneError if the head is packed, or a layer in a way that ptune does not have.
    """
    head = model.get_output_embeddings()
    if isinstance(head, Linear4bit | Linear8bitLt):
        raise BackboneError(f"backbone.model {named!r} was saved with its output head quantised; {ORIGINAL}")
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            _check_state(layer.weight.quant_state, name, named)
            model.set_submodule(name, taken := Nf4Linear(layer))
            taken.quant_state = taken.weight.quant_state
            taken.quant_state.dtype, taken.weight.module = dtype, taken
        elif isinstance(layer, Linear8bitLt):
            model.set_submodule(name, Int8Linear(layer))
    _cast(model, dtype)
    model.hf_quantizer.remove_quantization_config(model)
    for config in {
        id(part.config): part.config for part in model.modules() if hasattr(part, "config")
    }.values():
        with contextlib.suppress(AttributeError):
            del config._is_quantized
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts the weights that are not packed, which transformers leaves as saved; in place."""
    wide = () if dtype == torch.float32 else tuple(model._keep_in_fp32_modules_strict)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            kept = any(part in name.split(".") for part in wide)
            parameter.data = parameter.data.to(torch.float32 if kept else dtype)


def _check_state(state: Any, name: str, named: str) -> None:
    if (state.quant_type, state.blocksize) != ("nf4", BLOCK):
        raise BackboneError(
            f"backbone.model {named!r} was saved with {name} in {state.quant_type} in blocks of {state.blocksize}, and"
            f" ptune reads nf4 in blocks of {BLOCK}; {ORIGINAL}"
        )
