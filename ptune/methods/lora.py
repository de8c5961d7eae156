"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from ptune.errors import RecipeError
from ptune.formats.name_patterns import in_any_order, unreadable
from ptune.methods.lora_blocks import begin_in_blocks, repeat_in_blocks
from ptune.methods.lora_from_data import FROM_DATA, Runs, begin_corda, begin_eva, begin_lora_ga
from ptune.methods.lora_init import MIRRORED, begin_mirrored
from ptune.methods.peft_method import PeftMethod
from ptune.methods.targets import linear_layers
from ptune.methods.token_rows import check_rows, rows_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel


class Lora(PeftMethod):
    """Low-rank adapters beside frozen linear layers and, in image models, convolutions."""

    r: int = Field(default=16, ge=1)
    """Rank of the updates."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r (alpha / sqrt(r) with `rslora`)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter's first matrix."""
    ends: tuple[Literal["head", "embedding"], ...] = ()
    """Also adapt a language model's output head, its embedding, or both."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732)."""
    rank_pattern: dict[str, int] = Field(default={})
    """Other ranks of some layers: a name's ending or a regular expression for it -> rank; of several that match a layer, the first counts."""
    alpha_pattern: dict[str, float] = Field(default={})
    """Other values of `alpha`, likewise."""
    init: Literal["default", "gaussian", "pissa", "olora", "eva", "corda", "lora_ga", "loftq"] = "default"
    """How the factors begin. pissa (Meng et al. 2024, https://arxiv.org/abs/2404.02948) and olora (Büyükakyüz 2024, https://arxiv.org/abs/2406.01775): as parts of the layer's weights; the saved adapter has twice the rank, and belongs to the base as it is. eva (Paischer et al. 2024, https://arxiv.org/abs/2410.07170): the first factors as the main directions of the layers' inputs on the rows of the first steps. corda (Yang et al. 2024, https://arxiv.org/abs/2406.05223) and lora_ga (Wang et al. 2024, https://arxiv.org/abs/2407.05000): by those inputs and the weights, and by the gradient on the rows of the first step; twice the rank, as pissa. loftq (Li et al. 2023, https://arxiv.org/abs/2310.08659): as what quantising the weights has lost."""
    dora: bool = False
    """DoRA: the length of each output's weights is trained apart from their direction (Liu et al. 2024, https://arxiv.org/abs/2402.09353)."""
    lora_bias: bool = False
    """Give the second factors a trained bias."""
    freeze_a: bool = False
    """LoRA-FA: train the second factors alone (Zhang et al. 2023, https://arxiv.org/abs/2308.03303)."""
    target_parameters: tuple[str, ...] = ()
    """Names or name endings of weights that are no layer of their own to adapt, such as the experts of a mixture: mlp.experts.gate_up_proj."""
    merge_into: Literal["int4"] | None = None
    """Train an update that merging into int4 does not round: one number for each 32 inputs (QA-LoRA, Xu et al. 2023, https://arxiv.org/abs/2309.14717). int8 needs none of this."""
    invocation: tuple[int, ...] = ()
    """aLoRA (Greenewald et al. 2025, https://arxiv.org/abs/2504.12397): numbers of the tokens from whose last place in a text on the update acts; before that the base is alone."""

    peft_config = "peft:LoraConfig"
    quantized = ("int8", "nf4")
    convolutions = True
    new_tokens = True

    @field_validator("merge_into", mode="before")
    @classmethod
    def _int4_alone(cls, profile: object) -> object:
        if profile == "int8":
            raise ValueError("int8 keeps an update that was trained as ever: leave merge_into out")
        if profile == "nf4":
            raise ValueError("a block in nf4 has a scale and no offset that an update could move: use int4")
        return profile

    @model_validator(mode="after")
    def _int4_holds_the_update(self) -> Lora:
        others = {"dora": self.dora, "ends": self.ends, "target_parameters": self.target_parameters}
        for name, value in others.items():
            if self.merge_into and value:
                raise ValueError(
                    f"merge_into {self.merge_into!r} does not go with {name}: leave one of them out"
                )
        if self.merge_into and self.init in MIRRORED:
            raise ValueError(
                f"init {self.init!r} begins with parts of the weights, which differ within a block: leave it or merge_into out"
            )
        return self

    @model_validator(mode="after")
    def _fields_that_go_together(self) -> Lora:
        mirrored = self.init in MIRRORED
        for name, value in (("dora", self.dora), ("lora_bias", self.lora_bias), ("dropout", self.dropout)):
            if mirrored and value:
                raise ValueError(f"init {self.init!r} does not go with {name}: leave one of them out")
        if mirrored and (self.ends or self.target_parameters or self.freeze_a):
            raise ValueError(f"init {self.init!r} is for linear layers, whose both factors are trained")
        if (self.calibrated or self.init == "loftq") and (self.ends or self.target_parameters):
            raise ValueError(f"init {self.init!r} is for linear layers: leave out ends and target_parameters")
        if self.target_parameters and (self.dropout or self.dora or self.lora_bias):
            raise ValueError("target_parameters takes no dropout, dora or lora_bias")
        if self.invocation and (self.dora or self.ends or self.target_parameters or mirrored):
            raise ValueError(
                "invocation takes no dora, ends, target_parameters or init of the weights' parts"
            )
        if any(token < 0 for token in self.invocation):
            raise ValueError("invocation: the number of a token is 0 or more")
        if any(rank < 1 for rank in self.rank_pattern.values()):
            raise ValueError("rank_pattern: a rank is 1 or more")
        return self

    @model_validator(mode="after")
    def _patterns_can_be_read(self) -> Lora:
        for field, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            if (wrong := unreadable(patterns)) is not None:
                raise ValueError(f"{field}: {wrong}")
        for name, alpha in self.alpha_pattern.items():
            if alpha <= 0:
                raise ValueError(f"alpha_pattern: {name!r} is {alpha:g}, an alpha is a number above 0")
        return self

    @property
    def plain(self) -> bool:
        """As `PeftMethod.plain`."""
        return not (self.dora or self.target_parameters)

    @property
    def by_gains(self) -> bool:
        """As `PeftMethod.by_gains`."""
        return self.dora

    @property
    def unforeseen(self) -> str:
        """As `PeftMethod.unforeseen`: where its tokens are in a text."""
        return "method.invocation" if self.invocation else super().unforeseen

    @property
    def one_text(self) -> bool:
        """As `PeftMethod.one_text`."""
        return bool(self.invocation)

    @property
    def adapts_convolutions(self) -> bool:
        """As `PeftMethod.adapts_convolutions`."""
        return self.init not in (*MIRRORED, *FROM_DATA, "loftq")

    @property
    def calibrated(self) -> bool:
        """As `PeftMethod.calibrated`."""
        return self.init in FROM_DATA

    def calibrate(self, model: PeftModel, runs: Runs) -> None:
        """As `PeftMethod.calibrate`."""
        begin = {"eva": begin_eva, "corda": begin_corda, "lora_ga": begin_lora_ga}[self.init]
        begin(model, runs)

    @property
    def streamed(self) -> bool:
        """As `PeftMethod.streamed`."""
        return self.plain and self.init not in (*MIRRORED, "loftq") and not self.invocation

    @property
    def only_factors(self) -> bool:
        """Whether the trained weights are the factors of one rank and scale, as they are saved."""
        patterns = self.rank_pattern or self.alpha_pattern or self.invocation
        others = self.lora_bias or self.freeze_a or self.init in MIRRORED or self.merge_into
        return self.plain and not (patterns or others)

    def check_quantized(self, quantize: str) -> None:
        """As `PeftMethod.check_quantized`."""
        if self.target_parameters:
            raise ValueError(
                f"backbone.quantize {quantize!r} packs the experts that method.target_parameters would adapt, and peft cannot"
                " read packed ones: leave one of the two out"
            )

    def apply(
        self, model: PreTrainedModel, new_tokens: Sequence[int] = (), head: Sequence[str] = ()
    ) -> nn.Module:
        """As `PeftMethod.apply`."""
        adapted = super().apply(model, new_tokens, head)
        if new_tokens:
            check_rows(model)
        if self.init in MIRRORED:
            begin_mirrored(adapted, self.init)
        if self.merge_into:
            if model.config.is_encoder_decoder:
                raise RecipeError(
                    "method.merge_into int4: an encoder-decoder is not exported in int4; leave it out"
                )
            begin_in_blocks(adapted)
        if self.freeze_a:
            for name, factor in adapted.named_parameters():
                if ".lora_A." in name or ".lora_embedding_A." in name:
                    factor.requires_grad_(False)
        return adapted

    def after_update(self, model: PeftModel, step: int, steps: int) -> None:
        """As `PeftMethod.after_update`."""
        if self.merge_into:
            repeat_in_blocks(model)

    def config(self, model: PreTrainedModel, new_tokens: Sequence[int], head: Sequence[str]) -> PeftConfig:
        """As `PeftMethod.config`."""
        from peft import LoraConfig

        place = self.place(model, head)
        if self.ends:
            place["target_modules"] = _with_ends(model, place["target_modules"], self.ends, new_tokens)
        names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
        own_ranks, own_alphas = (
            in_any_order(self.rank_pattern, names),
            in_any_order(self.alpha_pattern, names),
        )
        # Those that begin as parts of the weights have as many rows again, which take the parts away.
        ranks, scales = (2, 2**0.5 if self.rslora else 2) if self.init in MIRRORED else (1, 1)
        return LoraConfig(
            r=self.r * ranks,
            lora_alpha=self.alpha * scales,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            rank_pattern={name: rank * ranks for name, rank in own_ranks.items()},
            alpha_pattern={name: alpha * scales for name, alpha in own_alphas.items()},
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
            use_dora=self.dora,
            lora_bias=self.lora_bias,
            target_parameters=list(self.target_parameters) or None,
            alora_invocation_tokens=list(self.invocation) or None,
            trainable_token_indices=rows_of(model, new_tokens),
            **place,
        )


def _with_ends(
    model: PreTrainedModel, targets: str | list[str], ends: Sequence[str], new_tokens: Sequence[int]
) -> list[str]:
    """Names of the layers to adapt, with those at the ends. Raises: RecipeError where the model has none, or they are trained."""
    head = model.get_output_embeddings()
    if head is None or model.config.is_encoder_decoder:
        raise RecipeError(f"method.ends: {type(model).__name__} is no language model with an output head")
    if new_tokens:
        raise RecipeError(
            "method.ends: backbone.new_tokens trains rows of the head and the embedding; use one or the other"
        )
    modules = {"head": head, "embedding": model.get_input_embeddings()}
    names = {id(module): name for name, module in model.named_modules()}
    if isinstance(targets, str):
        targets = linear_layers(model)
    return [*targets, *(names[id(modules[end])] for end in dict.fromkeys(ends))]
