"""What all methods of peft share: small trained modules beside the layers of a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ptune.errors import RecipeError, in_one_line
from ptune.kinds import imported
from ptune.methods.targets import Targets, targets_of
from ptune.spec import Spec

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel


METHOD_STATE = "method_state"
"""The module of a PeftModel whose buffers are what a method remembers from step to step; checkpoints hold them."""


class PeftMethod(Spec):
    """A method of peft. Its own fields are those of peft's config, and mean the same."""

    target_modules: Targets = "all-linear"
    """Names or name endings of the layers to adapt; all-linear: every linear layer except the output head, and of image models the plain convolutions that the method can adapt."""
    exclude_modules: tuple[str, ...] = ()
    """Names or name endings of layers that are not adapted."""
    layers_to_transform: tuple[int, ...] = ()
    """Numbers of the blocks to adapt, from 0; default: all."""

    peft_config: ClassVar[str]
    """peft's config, as "module:class"."""
    peft_names: ClassVar[Mapping[str, str]] = {}
    """Own field -> its name in peft's config, where they differ."""
    quantized: ClassVar[tuple[str, ...]] = ()
    """Values of `backbone.quantize` that peft's layers of the method can stand beside."""
    convolutions: ClassVar[bool] = False
    """Whether the method adapts convolutions."""
    conv1d: ClassVar[bool] = True
    """Whether the method adapts GPT-2's Conv1D."""
    new_tokens: ClassVar[bool] = False
    """Whether the method trains rows of `backbone.new_tokens`."""
    virtual_tokens: ClassVar[bool] = False
    """Whether the method puts trained vectors before a text instead of changing layers."""
    copies: ClassVar[bool] = False
    """Whether what is trained are copies of the base's weights in their type, which 16 bits are too few for."""
    followed: ClassVar[bool] = True
    """Whether a step can be followed without the values of weights, as `ptune plan` does."""
    folds: ClassVar[bool] = False
    """Whether the update of a layer can be written as x A B when it is served (ptune.engine.adapters.fold)."""
    scales: ClassVar[bool] = False
    """Whether a layer's inputs or outputs are scaled, for which bundles of chat have sockets (ptune.engine.adapters.gains)."""
    mergeable: ClassVar[bool] = True
    """Whether `ptune merge` can make one model of base and adapter."""

    @property
    def adapts_convolutions(self) -> bool:
        """Whether the method adapts convolutions, as its fields are."""
        return self.convolutions

    @property
    def streamed(self) -> bool:
        """See `streams`."""
        return False

    @property
    def unforeseen(self) -> str:
        """What of it `ptune plan` cannot follow, in words; empty where it follows a step."""
        return "" if self.followed else f"method {type(self).__name__}"

    @property
    def one_text(self) -> bool:
        """Whether each example takes a row of its own, as what is trained depends on where a text begins and ends."""
        return self.virtual_tokens

    @property
    def plain(self) -> bool:
        """Whether the update of a layer is x A B as it is saved."""
        return False

    @property
    def by_gains(self) -> bool:
        """See `scales`."""
        return self.scales

    def beside(self, *, chat: bool) -> bool:
        """Whether the adapter is served beside its base. Others are served merged, if at all. chat: the base is a decoder."""
        return self.plain or self.folds or self.virtual_tokens or (chat and self.by_gains)

    def check_quantized(self, quantize: str) -> None:
        """Raises: ValueError where the method's fields do not go with a base that is quantised so."""

    def apply(
        self, model: PreTrainedModel, new_tokens: Sequence[int] = (), head: Sequence[str] = ()
    ) -> nn.Module:
        """Returns `model` wrapped in a PeftModel whose only trainable weights are the adapter's, in float32.

        head: names of the modules that are not pretrained; they are trained in full and saved with the adapter.
        new_tokens: ids whose rows in the embedding and the output head are trained and saved with the adapter.

        Raises: RecipeError if a name matches no layer, or peft cannot adapt one.
        """
        if new_tokens and not self.new_tokens:
            raise RecipeError(f"method {type(self).__name__} trains no rows of new tokens: use Lora or Full")
        return wrapped(model, self.config(model, new_tokens, head))

    def config(self, model: PreTrainedModel, new_tokens: Sequence[int], head: Sequence[str]) -> PeftConfig:
        """peft's config for this model."""
        made: PeftConfig = imported(self.peft_config)(**{**self.fields(), **self.place(model, head)})
        return made

    def fields(self) -> dict[str, Any]:
        """peft's fields that the method's own ones are."""
        own = [name for name in type(self).model_fields if name not in PeftMethod.model_fields]
        return {self.peft_names.get(name, name): getattr(self, name) for name in own}

    def place(self, model: PreTrainedModel, head: Sequence[str]) -> dict[str, Any]:
        """peft's fields that say where the adapter goes."""
        from transformers.pytorch_utils import Conv1D

        targets = targets_of(
            model,
            self.target_modules,
            self.exclude_modules,
            self.layers_to_transform,
            head,
            convolutions=self.adapts_convolutions,
        )
        if not self.conv1d and any(isinstance(one, Conv1D) for one in model.modules()):
            raise RecipeError(
                f"method {type(self).__name__} cannot adapt {type(model).__name__}, whose layers are Conv1D: use Lora"
            )
        return {
            "target_modules": targets,
            "task_type": task_type(model),
            "modules_to_save": list(head) or None,
        }

    @property
    def calibrated(self) -> bool:
        """Whether the method begins with what the first rows show; see `calibrate`."""
        return False

    def calibrate(self, model: PeftModel, runs: Sequence[Callable[[], Tensor]]) -> None:
        """Called once before the first step, also when a run goes on, if `calibrated`.

        runs: each runs the model on some of the first rows, in evaluation mode, and returns the mean loss [], with its graph where
        gradients are asked for.
        Raises: RecipeError.
        """

    def begin(self, model: PeftModel, steps: int) -> None:
        """Called before the first of `steps` steps, also when a run goes on. Raises: RecipeError."""

    def after_update(self, model: PeftModel, step: int, steps: int) -> None:
        """Called after the optimiser's step number `step` (from 1) of `steps`, while the gradients are there."""

    def penalty(self, model: PeftModel) -> Any:
        """A term [] to add to the loss per target; None: there is none."""
        return None


def streams(method: Spec) -> bool:
    """Whether layers of the base may stay in a file while its adapter is trained: peft never reads their weights."""
    return isinstance(method, PeftMethod) and method.streamed


def wrapped(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """`model` with an adapter. Raises: RecipeError in peft's words where it refuses the model or the config."""
    from peft import get_peft_model

    try:
        adapted: PeftModel = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = in_one_line(error).rstrip(".")
        raise RecipeError(
            f"method: peft cannot adapt {type(model).__name__}: {reason}; or use method Full"
        ) from error
    return adapted


def in_order(config: PeftConfig) -> None:
    """Sorts the names in peft's config, which keeps some as sets, whose order differs between processes."""
    for field in ("target_modules", "modules_to_save", "exclude_modules", "feedforward_modules"):
        if isinstance(names := getattr(config, field, None), set | list):
            setattr(config, field, sorted(names))


def task_type(model: PreTrainedModel) -> str | None:
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
