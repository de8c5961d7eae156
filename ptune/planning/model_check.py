"""What can be done with a pretrained model, told from its config and its tokenizer: no weight is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ptune.backbone.load import in_one_sentence, load_codec, published_config
from ptune.backbone.locate import Source, locate
from ptune.backbone.packed_folder import packed_as, why_not_read
from ptune.backbone.rope import BY_LENGTH, with_fixed_rope
from ptune.backbone.vision_language import sees_images, why_blind
from ptune.codecs.chat import ChatCodec
from ptune.codecs.reasoning import reasoning_format
from ptune.codecs.template import ChatTemplate
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError, PtuneError, RecipeError, TemplateError, in_one_line
from ptune.formats.bundle import Quantized, Stored
from ptune.methods.lora import Lora
from ptune.planning.exportable import why_not_exportable
from ptune.planning.files import files_of
from ptune.planning.model_memory import Sizes, cache_bytes_a_token, sizes_of, without_weights

DECODER, ENCODER, SEQ2SEQ, IMAGES, OTHER = "decoder", "encoder", "encoder-decoder", "image model", "other"
SEES = "decoder that sees images"
_AUTO = {
    DECODER: transformers.AutoModelForCausalLM,
    ENCODER: transformers.AutoModel,
    SEQ2SEQ: transformers.AutoModelForSeq2SeqLM,
    IMAGES: transformers.AutoModel,
    SEES: transformers.AutoModelForImageTextToText,
}
_TASKS = {
    ENCODER: "as a classifier or tagger of texts, an embedding or a reranker",
    SEQ2SEQ: "as a translation",
    IMAGES: "as a classifier of images",
    SEES: "its decoder, on conversations with images or without",
}
_PROFILES = {
    DECODER: ("fp32", "int8", "int4", "nf4"),
    SEES: ("fp32", "int8", "int4"),
    SEQ2SEQ: ("fp32",),
}  # all others: fp32 and int8


@dataclass(frozen=True)
class Verdict:
    """Whether something works; why it does not, or on what condition it does."""

    works: bool
    why: str = ""


@dataclass(frozen=True)
class Thinking:
    """How a chat template marks what a model thinks before it answers."""

    begin: str
    end: str
    switch: bool  # whether `enable_thinking` changes the prompt


@dataclass(frozen=True)
class ModelCheck:
    """Everything that `ptune doctor --model` says."""

    model: str
    kind: str
    family: str  # transformers' model_type
    architecture: str
    parameters: int | None  # None where the model cannot be built without its own code
    weights: str  # what lies on disk: safetensors, gguf, or unknown
    file_bytes: int
    dtype: str  # of most of the bytes
    context: int | None  # tokens
    rope: tuple[str, ...]
    longest: int | None  # tokens with `backbone.context`, of a model whose rotary embedding depends on it
    train: dict[str, Verdict]
    export: Verdict
    profiles: dict[str, Verdict]
    serve: Verdict
    train_bytes: dict[str, int]  # of the frozen weights, by how they are held
    serve_bytes: dict[str, int]  # of the weights, by profile
    cache_bytes_a_token: int | None
    chat_template: bool
    tools: str | None
    thinking: Thinking | None
    problems: tuple[str, ...]  # what could not be looked at

    def described(self) -> dict[str, Any]:
        """In JSON types."""
        return asdict(self)


def check_model(spec: Backbone) -> ModelCheck:
    """Reads config, tokenizer and the headers of the weights. Raises: BackboneError where there is no such model."""
    source = locate(spec.model)
    if source.timm is not None:
        raise BackboneError(
            f"{spec.model} holds timm's {source.timm} without a config: it can be trained as a classifier of"
            " images, exported with --merge and served; nothing else is known of it before it is loaded"
        )
    with in_one_sentence(spec.model, source):
        published = published_config(spec, source)
        weights, file_bytes, dtype = files_of(source)
    kind, problems = kind_of(published), list[str]()
    saved = None if source.gguf is not None else _saved_in(published, spec.model)
    if saved is not None and saved.quantize is not None:
        spec = spec.model_copy(update={"quantize": saved.quantize})
    config = with_fixed_rope(published, spec.context)
    model = _model(config, kind, spec, problems)
    sizes = None if model is None else sizes_of(model)
    codec = None if kind in (IMAGES, OTHER) else _codec(spec, problems)
    train = _trained(published, kind, model, sizes, saved)
    export = _exported(config, kind, saved, spec.trust_remote_code)
    served = {} if sizes is None or not export.works else sizes.served()
    rope, longest = _rope(published)
    return ModelCheck(
        model=spec.model,
        kind=kind,
        family=published.model_type,
        architecture=", ".join(published.architectures or ())
        or ("unknown" if model is None else type(model).__name__),
        parameters=None if sizes is None else sizes.parameters,
        weights=weights,
        file_bytes=file_bytes,
        dtype=_gguf_type(source) or str(dtype or published.dtype or "not said").removeprefix("torch."),
        context=codec.context if codec else _number(config.get_text_config(), "max_position_embeddings"),
        rope=rope,
        longest=longest,
        train=train,
        export=export,
        profiles=_profiles(kind, sizes, export),
        serve=export,
        train_bytes={} if sizes is None else _train_bytes(sizes, train, saved, file_bytes),
        serve_bytes={name: served[name] for name in _PROFILES.get(kind, ("fp32", "int8")) if name in served},
        cache_bytes_a_token=cache_bytes_a_token(config) if kind == DECODER and export.works else None,
        chat_template=codec is not None and codec.template is not None,
        tools=None if codec is None or codec.tool_format is None else codec.tool_format.kind,
        thinking=None if codec is None or codec.template is None else thinking_of(codec.template),
        problems=tuple(problems),
    )


def kind_of(config: PretrainedConfig) -> str:
    """What a model is to ptune."""
    if config.is_encoder_decoder:
        return SEQ2SEQ if type(config) in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING else OTHER
    if sees_images(config):
        return SEES if why_blind(config) is None else OTHER
    if type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return IMAGES
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return ENCODER
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return DECODER
    return DECODER if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}) else OTHER


def thinking_of(template: ChatTemplate) -> Thinking | None:
    """How a template marks what is thought; None where it marks nothing."""
    form = reasoning_format(template, {})
    if form is None:
        return None
    prompts = {_prompt(template, enable_thinking=on) for on in (True, False)}
    return Thinking(form.opening, form.closing, len(prompts) > 1)


def _prompt(template: ChatTemplate, **variables: Any) -> str:
    """A question with the generation prompt; empty where the template refuses it."""
    try:
        return template.render(
            [{"role": "user", "content": "Where is Oslo?"}], add_generation_prompt=True, **variables
        )
    except TemplateError:
        return ""


def _codec(spec: Backbone, problems: list[str]) -> ChatCodec | None:
    try:
        return load_codec(spec)
    except PtuneError as error:
        problems.append(f"the tokenizer cannot be read: {error}")
        return None


@dataclass(frozen=True)
class Saved:
    """How weights are stored that are quantised: as ptune reads them, or why it does not."""

    quantize: Quantized | None
    why: str = ""


def _saved_in(published: PretrainedConfig, named: str) -> Saved | None:
    """None for weights that are not quantised."""
    if (why := why_not_read(published)) is not None:
        return Saved(None, f"it {why}")
    quantize = packed_as(published, named)
    return None if quantize is None else Saved(quantize)


def _model(
    config: PretrainedConfig, kind: str, spec: Backbone, problems: list[str]
) -> PreTrainedModel | None:
    """The model in shapes."""
    if kind == OTHER:
        return None
    try:
        return without_weights(config, _AUTO[kind], trust_remote_code=spec.trust_remote_code)
    except Exception as error:  # a model's own code may raise anything
        reason = in_one_line(error)
        problems.append(f"the weights cannot be counted: {reason}")
        return None


def _trained(
    config: PretrainedConfig,
    kind: str,
    model: PreTrainedModel | None,
    sizes: Sizes | None,
    saved: Saved | None,
) -> dict[str, Verdict]:
    """LoRA is tried: peft puts its adapters beside layers without weights."""
    if kind == OTHER and sees_images(config):
        return {
            "lora": Verdict(False, f"{config.model_type} {why_blind(config)}, which ptune does not train yet")
        }
    if kind == OTHER:
        return {"lora": Verdict(False, f"{config.model_type} is no kind of model that ptune trains")}
    if saved is not None:
        return _trained_as_saved(kind, saved)
    lora = Verdict(True, _TASKS.get(kind, ""))
    if kind != DECODER or model is None or sizes is None:
        return {"lora": lora}
    try:
        Lora(r=1).apply(model)
    except RecipeError as error:
        lora = Verdict(False, str(error))
    quantised = lora
    if lora.works and not sizes.layers:
        quantised = Verdict(False, f"{config.model_type} has no linear layers to quantise")
    elif lora.works and 2 * sizes.layers < sizes.parameters:
        share = 1 - sizes.layers / sizes.parameters
        quantised = Verdict(True, f"{share:.0%} of the weights are in no linear layer and stay as they are")
    return {"lora": lora, "qlora nf4": quantised, "qlora int8": quantised}


def _trained_as_saved(kind: str, saved: Saved) -> dict[str, Verdict]:
    """Of weights that are quantised in their files."""
    if saved.quantize is None or kind != DECODER:
        return {
            "lora": Verdict(False, saved.why or f"it is stored in {saved.quantize}, which chat alone takes")
        }
    lora = Verdict(False, f"it is stored in {saved.quantize}: name its original weights")
    return {"lora": lora, f"qlora {saved.quantize}": Verdict(True, "as it is stored")}


def _exported(config: PretrainedConfig, kind: str, saved: Saved | None, trust_remote_code: bool) -> Verdict:
    if saved is not None and (saved.quantize is None or kind != DECODER):
        return Verdict(False, saved.why or f"it is stored in {saved.quantize}")
    if kind in (ENCODER, IMAGES):
        return Verdict(True, "a run that was trained on it")
    reason = why_not_exportable(config, trust_remote_code=trust_remote_code)
    return Verdict(reason is None, reason or "")


def _profiles(kind: str, sizes: Sizes | None, export: Verdict) -> dict[str, Verdict]:
    found = {}
    for name in _PROFILES.get(kind, ("fp32", "int8")):
        condition = {"fp32": "", "nf4": "where it was trained in nf4"}.get(name, "where it holds its gate")
        found[name] = Verdict(True, condition) if export.works else Verdict(False, "it cannot be exported")
    if sizes is not None and not sizes.layers and "nf4" in found and export.works:
        found["nf4"] = Verdict(False, "it cannot be trained in nf4")
    return found


def _train_bytes(
    sizes: Sizes, train: dict[str, Verdict], saved: Saved | None, file_bytes: int
) -> dict[str, int]:
    """Of the ways to train that work."""
    stored = None if saved is None else saved.quantize
    if stored is not None and stored in get_args(Stored):
        return {stored: file_bytes} if file_bytes and f"qlora {stored}" in train else {}
    return _of_those_that_work(sizes.trained_on(), train)


def _of_those_that_work(sizes: dict[str, int], train: dict[str, Verdict]) -> dict[str, int]:
    of = {"float32": "lora", "bfloat16": "lora", "nf4": "qlora nf4", "int8": "qlora int8"}
    return {name: size for name, size in sizes.items() if of[name] in train and train[of[name]].works}


def _rope(config: PretrainedConfig) -> tuple[tuple[str, ...], int | None]:
    """Kinds of rotary embedding, and the longest sequence that `backbone.context` may ask for."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    sets = [parameters] if "rope_type" in parameters else parameters.values()
    kinds = sorted({str(one["rope_type"]) for one in sets if isinstance(one, dict) and "rope_type" in one})
    longest = _number(text, "max_position_embeddings") if "longrope" in kinds else None
    return tuple(kinds), longest if any(kind in BY_LENGTH for kind in kinds) else None


def _gguf_type(source: Source) -> str | None:
    """The type of most bytes in a GGUF file, such as Q4_K."""
    if source.gguf is None:
        return None
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(Path(source.path) / source.gguf).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return max(sizes, key=sizes.__getitem__, default="empty")


def _number(config: PretrainedConfig, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None
