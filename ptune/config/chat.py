"""The task fields of a chat recipe. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ptune.config.columns import ChatColumns
from ptune.config.task_spec import TaskSpec
from ptune.formats.request_defaults import Mark, RequestDefaults, Variable


class Chat(TaskSpec):
    """Supervised fine-tuning of a causal language model on conversations."""

    takes_rounded_weights: ClassVar[bool] = True

    columns: ChatColumns = ChatColumns()
    template: Path | None = None
    """A Jinja chat template file; default: the model's own."""
    system: str | None = None
    """A system message for conversations that have none."""
    chat_template_kwargs: dict[str, Variable] = Field(default_factory=dict)
    """Variables of the chat template, e.g. `{"enable_thinking": False}`, in training and, unless a request sends others, in serving."""
    reasoning_marks: tuple[Mark, Mark] | None = None
    """The texts around what the model thinks, where the template shows none, e.g. `("<think>", "</think>")`."""
    thinking_token_budget: int | None = Field(default=None, ge=0)
    """Most tokens of thought in serving, unless a request sends another number; default: any number."""
    train_on: Literal["assistant", "last"] = "assistant"
    """Targets: every assistant message, or only the last one. A message with `"train": false` is never a target."""
    max_length: int = Field(default=1024, ge=8)
    """Longest example, in tokens."""
    on_overlong: Literal["error", "truncate", "drop", "split"] = "error"
    """What to do with an example longer than `max_length`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over the whole vocabulary while it trains; validation losses are without it."""

    loss_type: Literal["nll", "dft"] = "nll"
    """Loss of a target while it trains: `nll`, -log p; `dft`, -p log p with p taken as a constant, so that what the model thinks
    unlikely pulls less. Validation losses are `nll`."""

    @model_validator(mode="after")
    def _dft_is_for_single_targets(self) -> Chat:
        if self.loss_type == "nll":
            return self
        if type(self) is not Chat:
            raise ValueError(f"loss_type {self.loss_type} is for task Chat: leave it out")
        if self.label_smoothing:
            raise ValueError(f"label_smoothing is not for loss_type {self.loss_type}: leave one of them out")
        return self

    @model_validator(mode="after")
    def _weights_are_for_the_plain_loss(self) -> Chat:
        if type(self) is not Chat and self.columns.named.get("weight"):
            raise ValueError("columns.weight is for task Chat: leave it out")
        return self

    @field_validator("chat_template_kwargs")
    @classmethod
    def _words_of_the_command_line(cls, variables: dict[str, Variable]) -> dict[str, Variable]:
        """ "true" and "false" are meant as such: a template would take either text for true."""
        truth = {"true": True, "false": False}
        return {
            name: truth.get(value.lower(), value) if isinstance(value, str) else value
            for name, value in variables.items()
        }

    @property
    def instruction(self) -> str | None:
        """The system message for conversations that have none, in training and in serving."""
        return self.system

    @property
    def request_defaults(self) -> RequestDefaults:
        """What requests to the trained model ask for unless they say otherwise."""
        return RequestDefaults(
            chat_template_kwargs=self.chat_template_kwargs,
            reasoning_marks=self.reasoning_marks,
            thinking_token_budget=self.thinking_token_budget,
        )
