"""What a request to an adapter asks for unless it says otherwise: part of codec.json, adapter.json and ptune.json."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Variable: TypeAlias = bool | int | float | str | None
"""What a variable of a chat template may be."""
Mark = Annotated[str, Field(pattern=r"\S", max_length=256)]


class RequestDefaults(BaseModel):
    """Set in training by the recipe's fields of the same names."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    chat_template_kwargs: dict[str, Variable] = Field(default_factory=dict)
    """Variables of the chat template."""
    reasoning_marks: tuple[Mark, Mark] | None = None
    """The texts around what is thought; None = those that the chat template writes."""
    thinking_token_budget: int | None = Field(default=None, ge=0)
    """Most tokens of thought; None = any number."""

    def stated(self) -> dict[str, Any]:
        """The fields that are set, in JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)


NO_DEFAULTS = RequestDefaults()
