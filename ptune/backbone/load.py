"""Loads pretrained language models, their codecs and their configs."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from ptune.backbone.gguf_config import complete
from ptune.backbone.gguf_splitting import split_as_in
from ptune.backbone.gguf_tensors import unpacked_when_asked_for
from ptune.backbone.identity import weights_hash
from ptune.backbone.keep_layers import config_with_layers, keep_layers
from ptune.backbone.layer_file import LayerFile
from ptune.backbone.locate import Source, licence_of_card, locate, perhaps_a_folder
from ptune.backbone.new_tokens import enlarge
from ptune.backbone.packed.formats import BY_METHOD
from ptune.backbone.packed.reading import kept_packed
from ptune.backbone.packed_cache import packed
from ptune.backbone.packed_folder import packed_as, settings_in, take_over
from ptune.backbone.parameters import parameters_of
from ptune.backbone.precision import fastest, usual
from ptune.backbone.quantize import Quantization, experts_packed_already, quantized_as_read
from ptune.backbone.rope import with_fixed_rope
from ptune.backbone.streaming import stream
from ptune.backbone.text_alone import text_alone
from ptune.backbone.tied import say_untied
from ptune.backbone.tokenizer import codec_for
from ptune.backbone.vision_language import auto_class, check_sees
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError, PtuneError, in_one_line
from ptune.formats.bundle import BaseIdentity
from ptune.formats.cache import cache_root
from ptune.progress import say, without_others

_NAMES: dict[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass(frozen=True)
class Loaded:
    """A pretrained model, ready to train or run."""

    model: PreTrainedModel  # in eval mode, nothing trainable yet
    codec: ChatCodec
    identity: BaseIdentity  # of the weights as stored or quantised, without rows of new tokens
    new_tokens: tuple[int, ...] = ()  # ids of `spec.new_tokens`


def load(
    spec: Backbone,
    *,
    attention: str = "sdpa",
    device: torch.device | str | None = None,
    codec: ChatCodec | None = None,
    streamed: bool = False,
) -> Loaded:
    """Loads a backbone without running a forward pass.

    attention: name of an attention implementation; sdpa becomes eager for a model without it.
    device: None = the GPU if there is one.
    codec: the result of `load_codec(spec)`, to avoid reading the tokenizer again.
    streamed: keep its layers in a file, and in memory only while they run (`ptune.backbone.streaming`).

    Raises: BackboneError where the model cannot be found, read, quantised or streamed.
    """
    spec = as_stored(spec)
    source, file = locate(spec.model), LayerFile(cache_root()) if streamed else None
    where = where_to_read(spec, source)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    say(f"loading {spec.model}")
    with in_one_sentence(spec.model, source), read_once(source):
        dtype = resolve_dtype(spec, device)
        model, sha256 = _read_model(spec, source, attention, dtype, file)
        codec = codec or codec_for(spec, source.path, where, model, read_tokenizer(spec, source))
    model.requires_grad_(False).eval()
    identity = identity_of(model, spec, source, dtype, sha256)
    # After the identity: new rows are computed from the others, the same everywhere, and replaced by trained rows. So an
    # adapter belongs to the published base, whatever tokens were added.
    ids = map(codec.tokenizer.token_to_id, spec.new_tokens)
    new_tokens = tuple(token for token in ids if token is not None)
    if new_tokens:
        enlarge(model, new_tokens)
        model.requires_grad_(False)
    if file is None:
        model.to(device)
    else:
        stream(model, file, device)
    return Loaded(model, codec, identity, new_tokens)


def identity_of(
    model: PreTrainedModel, spec: Backbone, source: Source, dtype: torch.dtype, sha256: str | None = None
) -> BaseIdentity:
    """The identity of a base with all its weights. dtype: type of the weights that are not quantised.

    sha256: their hash, where it is known.
    """
    return BaseIdentity(
        hash=sha256 or weights_hash(model),
        source=spec.model,
        quantize=spec.quantize,
        dtype=_NAMES[dtype],
        revision=spec.revision,
        architecture=type(model).__name__,
        parameters=parameters_of(model),
        licence=source.licence or licence_inside(spec, source) or "unknown",
        keep_layers=spec.keep_layers,
        context=spec.context,
    )


@dataclass(frozen=True)
class _Described:
    """The facts about a model that a codec needs."""

    config: transformers.PretrainedConfig
    generation_config: transformers.GenerationConfig


def load_codec(spec: Backbone) -> ChatCodec:
    """The codec that `load` returns, without reading the weights. Raises: BackboneError, like `load`."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source), read_once(source):
        config = read_config(spec, source)
        revision = where_to_read(spec, source).get("revision", "main")
        try:
            ends = transformers.GenerationConfig.from_pretrained(source.path, revision=revision)
        except OSError:  # the model has no such file; like transformers, use its config
            ends = transformers.GenerationConfig.from_model_config(config)
        described, where = _Described(config, ends), where_to_read(spec, source)
        return codec_for(spec, source.path, where, described, read_tokenizer(spec, source))


def training_dtype(spec: Backbone, device: torch.device) -> torch.dtype:
    """The type of frozen weights for training; `auto` is the type that the device was measured to train in fastest.

    On a CPU weights are rounded only on request, since the served model would differ from the published one. Weights that
    are published in bfloat16 lose nothing.
    """
    if spec.dtype != "auto":
        return resolve_dtype(spec, device)
    if device.type == "cpu" and not _published_in_bfloat16(spec):
        return torch.float32
    return fastest(device)


def _published_in_bfloat16(spec: Backbone) -> bool:
    source = locate(spec.model)
    with in_one_sentence(spec.model, source):
        return read_config(spec, source).dtype == torch.bfloat16


def resolve_dtype(spec: Backbone, device: torch.device) -> torch.dtype:
    """The type of weights that are not trained; only `training_dtype` measures `auto`."""
    if spec.dtype == "auto":
        return usual(device)
    return next(dtype for dtype, name in _NAMES.items() if name == spec.dtype)


def _read_model(
    spec: Backbone, source: Source, attention: str, dtype: torch.dtype, file: LayerFile | None
) -> tuple[PreTrainedModel, str]:
    """The model, quantised as `spec` says, and the hash of its weights. file: takes what is quantised as it is read."""
    config = read_config(spec.model_copy(update={"keep_layers": ()}), source)  # as the files are
    where = where_to_read(spec, source)

    def read(place: str, config: transformers.PretrainedConfig, **options: Any) -> PreTrainedModel:
        model, report = auto_class(config).from_pretrained(
            place,
            dtype=dtype,
            attn_implementation=None if attention == "sdpa" else attention,  # None: sdpa where there is one
            output_loading_info=True,
            config=config,
            **options,
        )
        refuse_lacking(spec, report["missing_keys"])
        say_untied(model)
        return model

    if spec.quantize == "none":
        model = read(source.path, config, **where)
        make_plain(model, source)
        keep_layers(model, spec.keep_layers)
        return model, weights_hash(model)

    if (form := BY_METHOD.get(spec.quantize)) is not None:
        stored = settings_in(published_config(spec, source))
        assert stored is not None  # or `as_stored` would have refused it
        with kept_packed(form, stored, spec.model):
            model = read(source.path, config, **where)
        return model, weights_hash(model)

    kind = cast(Quantization, spec.quantize)

    def read_packed(place: str, settings: Any, **options: Any) -> PreTrainedModel:
        packed_config = copy.deepcopy(config)
        packed_config.quantization_config = settings
        with experts_packed_already(kind, place != source.path):  # in the cache, that is
            model = read(place, packed_config, device_map={"": "cpu"}, **options)
        take_over(model, kind, dtype, spec.model)
        model.name_or_path = model.config.name_or_path = source.path
        return model

    def read_and_quantize() -> PreTrainedModel:
        one_by_one = contextlib.nullcontext() if source.gguf is None else unpacked_when_asked_for()
        with quantized_as_read(kind, file), one_by_one:
            model = read(source.path, config, **where)
        make_plain(model, source)
        _copy_plain_weights(model)
        return model

    settings = None if source.gguf is not None else settings_in(published_config(spec, source))
    if settings is not None:
        model = read_packed(source.path, settings, **where)
        return model, weights_hash(model)
    return packed(
        spec, kind, source, config, dtype, read_packed, read_and_quantize, streamed=file is not None
    )


def _copy_plain_weights(model: PreTrainedModel) -> None:
    """Copies the weights of a quantised model that are not packed: as views they would keep its whole files mapped."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def refuse_lacking(spec: Backbone, names: Collection[str]) -> None:
    """Raises: BackboneError if a backbone lacks weights that it should have."""
    if names:
        first = ", ".join(sorted(names)[:3])
        raise BackboneError(f"backbone.model {spec.model!r} lacks {len(names)} weights: {first} …")


def make_plain(model: PreTrainedModel, source: Source) -> None:
    """Makes a dequantised GGUF model savable."""
    if source.gguf is not None:
        # transformers has dequantised the file but still calls the model quantised, and would refuse to save it.
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config


def read_tokenizer(spec: Backbone, source: Source) -> transformers.PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source.path, use_fast=True, **where_to_read(spec, source))
    if source.gguf is not None and isinstance(tokenizer, PreTrainedTokenizerFast):
        split_as_in(Path(source.path) / source.gguf, tokenizer.backend_tokenizer)
    return tokenizer


def read_config(spec: Backbone, source: Source) -> transformers.PretrainedConfig:
    """What the model is, without its weights: its layers that are kept, with one set of rotary frequencies for all lengths
    (`ptune.backbone.rope`); the text model alone where images are not supported (`ptune.backbone.text_alone`).

    Raises: BackboneError if the weights are stored in another way than `spec` says, or it lacks a layer to keep.
    """
    config = published_config(spec, source)
    if source.gguf is None and (saved := packed_as(config, spec.model)) is not None:
        if spec.quantize not in ("none", saved):
            raise BackboneError(
                f"backbone.model {spec.model!r} is stored in {saved}: leave out --backbone.quantize {spec.quantize}, or name its"
                " original weights"
            )
        del config.quantization_config
    elif spec.quantize in BY_METHOD:
        raise BackboneError(
            f"backbone.quantize {spec.quantize!r} is for models that are stored in it, and {spec.model} is not: use nf4, int8 or none"
        )
    config = text_alone(config)
    check_sees(spec, config)
    return config_with_layers(with_fixed_rope(config, spec.context), spec.keep_layers)


def as_stored(spec: Backbone) -> Backbone:
    """`spec` with what the model is stored in, where it is quantised already. Reads the config.

    Raises: BackboneError if it is stored in a way that ptune does not read, or in another than `spec` says.
    """
    source = locate(spec.model)
    if source.gguf is not None or source.timm is not None:
        return spec
    with in_one_sentence(spec.model, source):
        read_config(spec.model_copy(update={"keep_layers": ()}), source)
        saved = packed_as(published_config(spec, source), spec.model)
    if saved is None:
        return spec
    if spec.keep_layers:
        raise BackboneError(
            f"backbone.keep_layers: {spec.model} is stored in {saved}, of which all layers are kept"
        )
    return spec.model_copy(update={"quantize": saved})


def plain_config(spec: Backbone, source: Source) -> transformers.PretrainedConfig:
    """`read_config`, of a model whose weights must not be quantised. Raises: BackboneError if they are."""
    if source.gguf is None and (saved := packed_as(published_config(spec, source), spec.model)) is not None:
        raise BackboneError(
            f"backbone.model {spec.model!r} is stored in {saved}, which chat alone takes: name its original weights"
        )
    return read_config(spec, source)


def published_config(spec: Backbone, source: Source) -> transformers.PretrainedConfig:
    """The config as its publisher wrote it.

    A GGUF file's config is read once per process: transformers reads the whole vocabulary for it, which takes seconds.
    """
    if source.gguf is None:
        return transformers.AutoConfig.from_pretrained(source.path, **where_to_read(spec, source))
    changed_ns = (Path(source.path) / source.gguf).stat().st_mtime_ns
    return copy.deepcopy(_gguf_config(source.path, source.gguf, changed_ns))


@functools.lru_cache(maxsize=4)
def _gguf_config(folder: str, file: str, _changed_ns: int) -> transformers.PretrainedConfig:
    say(f"reading the config out of {file}")
    with read_once(Source(folder, file)):
        config: transformers.PretrainedConfig = transformers.AutoConfig.from_pretrained(
            folder, gguf_file=file
        )
        complete(config, Path(folder) / file)
    return config


@contextlib.contextmanager
def read_once(source: Source) -> Iterator[None]:
    """Lets transformers parse a GGUF file once, not for config, tokenizer and weights each, which takes seconds.

    It would also build the table of all tensors' names again for every module of the model.
    """
    if source.gguf is None:
        yield
        return
    import gguf

    own = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(functools.cache, own)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = own


def where_to_read(spec: Backbone, source: Source) -> dict[str, Any]:
    place: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if source.gguf is not None:
        place["gguf_file"] = source.gguf
    if source.on_hub:
        place["revision"] = spec.revision or "main"
    return place


def licence_inside(spec: Backbone, source: Source) -> str | None:
    """The licence stated in a GGUF file or a hub repository."""
    if source.gguf is not None:
        from gguf import GGUFReader

        field = GGUFReader(Path(source.path) / source.gguf).get_field("general.license")
        return None if field is None else str(field.contents())
    if source.on_hub:
        card = cached_file(
            source.path, "README.md", revision=spec.revision, _raise_exceptions_for_missing_entries=False
        )
        return None if card is None else licence_of_card(Path(card))
    return None


@contextlib.contextmanager
def in_one_sentence(named: str, source: Source) -> Iterator[None]:
    """Turns errors inside transformers into a BackboneError of one sentence; shows its progress bars only on a terminal."""
    try:
        with without_others():
            yield
    except PtuneError:
        raise
    except Exception as error:  # a damaged file can end in any of the readers' own exceptions
        reason = in_one_line(error)
        if "trust_remote_code" in str(error):
            reason = (
                "it brings code of its own; run it with --trust-remote-code (of a recipe:"
                " --backbone.trust-remote-code) if you trust its author"
            )
        elif source.on_hub:
            missing = f"it is not on this machine and could not be fetched from the hub. {reason}"
            reason = f"{perhaps_a_folder(named)}{missing}"
        raise BackboneError(f"cannot load backbone.model {named!r}: {reason}") from error
