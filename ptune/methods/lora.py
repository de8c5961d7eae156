"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) through peft."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ptune.errors import RecipeError
from ptune.methods.image_layers import adaptable, is_image_model
from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Lora(Spec):
    """Low-rank adapters beside frozen linear layers and, in image models, convolutions."""

    r: int = Field(default=16, ge=1)
    """Rank of the updates."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r (alpha / sqrt(r) with `rslora`)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter's first matrix."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names or name endings of the layers to adapt; all-linear: every linear layer and ungrouped convolution except the output head."""
    ends: tuple[Literal["head", "embedding"], ...] = ()
    """Also adapt a language model's output head, its embedding, or both."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023)."""

    def apply(
        self, model: PreTrainedModel, new_tokens: Sequence[int] = (), head: Sequence[str] = ()
    ) -> nn.Module:
        """Returns `model` wrapped in a PeftModel whose only trainable weights are the adapter's, in float32.

        head: names of the modules that are not pretrained; they are trained in full and saved with the adapter.
        new_tokens: ids whose rows in the embedding and the output head are trained and saved with the adapter.

        Raises: RecipeError if a name in `target_modules` matches no layer, or peft cannot adapt one, or train single rows.
        """
        from peft import LoraConfig, get_peft_model

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        if not isinstance(targets, str):
            _check_targets(targets, [name for name, _ in model.named_modules() if name])
        if self.ends:
            targets = _with_ends(model, targets, self.ends, new_tokens)
        if is_image_model(model):
            targets = _image_targets(model, targets, head)
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            use_rslora=self.rslora,
            task_type=_task_type(model),
            modules_to_save=list(head) or None,
            trainable_token_indices=_rows(model, new_tokens),
        )
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:  # of layers that peft itself refuses, such as some of Mamba's
            reason = str(error).splitlines()[0].rstrip(".")
            raise RecipeError(
                f"method: peft cannot adapt {type(model).__name__}: {reason}; or use method Full"
            ) from error
        if new_tokens:
            _check_rows(model)
        return adapted


def _with_ends(
    model: PreTrainedModel, targets: str | list[str], ends: Sequence[str], new_tokens: Sequence[int]
) -> list[str]:
    """Names of the layers to adapt, with those at the ends. Raises: RecipeError where the model has none, or they are trained."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

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
        linear = nn.Linear | Conv1D
        targets = [n for n, one in model.named_modules() if isinstance(one, linear) and one is not head]
    return [*targets, *(names[id(modules[end])] for end in dict.fromkeys(ends))]


def _image_targets(model: PreTrainedModel, targets: str | list[str], head: Sequence[str]) -> list[str]:
    """Full names of the layers to adapt (peft's all-linear ignores convolutions).

    Raises: RecipeError if a name matches no layer that can be adapted.
    """
    layers = adaptable(model, head)
    if not layers:
        raise RecipeError(
            f"peft cannot adapt {type(model.base_model).__name__}: use FreezeExceptLast or Full"
        )
    if isinstance(targets, str):
        return layers
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise RecipeError(
                f"method.target_modules: {target!r} names no linear layer or plain convolution of the body"
                " (grouped ones and those that pad by the image's size stay frozen)"
            )
    return [name for name in layers if any(f".{name}".endswith(f".{target}") for target in targets)]


def _task_type(model: PreTrainedModel) -> str | None:
    """peft's name for the model's task; None where peft has none, as for images."""
    kinds = {
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
        "Embedder": "FEATURE_EXTRACTION",
    }
    ends = (kind for end, kind in kinds.items() if type(model).__name__.endswith(end))
    if type(model).__name__.endswith("ForImageClassification"):
        return None
    return next(ends, "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM")


def _rows(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """peft's `trainable_token_indices`: layer -> rows. A head tied to the embedding shares its rows."""
    if not tokens:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    if getattr(head, "bias", None) is not None:  # peft computes the head of new tokens without it
        raise RecipeError(
            f"backbone.new_tokens: the output head of {type(model).__name__} has a bias: use method Full"
        )
    names = {id(layer): name for name, layer in model.named_modules()}
    return {names[id(layer)]: list(tokens) for layer in layers}


def _check_rows(model: PreTrainedModel) -> None:
    """Raises: RecipeError if peft did not put the trained rows into both the embedding and the head."""
    from peft.utils.other import TrainableTokensWrapper

    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if not isinstance(layer, TrainableTokensWrapper):
            raise RecipeError(
                f"backbone.new_tokens: peft cannot train single rows of {type(model).__name__}: use method Full"
            )


def _check_targets(targets: list[str], modules: list[str]) -> None:
    """Raises: RecipeError if a name matches no layer; peft ignores it as long as another one matches."""
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in modules):
            known = {name.rpartition(".")[2] for name in modules}
            close = difflib.get_close_matches(target, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"method.target_modules: the model has no layer named {target!r}{hint}")
