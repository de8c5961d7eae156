"""Fields that say how a conversation becomes a prompt, and what the codec is given for them."""

from __future__ import annotations

from typing import Any, TypedDict

from pydantic import Field, model_validator

from ptune.codecs.template_request import MAX_VARIABLES, Variables
from ptune.errors import RequestError

from ..fields.known_fields import Request


class Rendering(TypedDict):
    """Arguments of a codec's `encode_prompt`."""

    asking: bool
    continued: bool
    variables: Variables


class Rendered(Request):
    """How a conversation becomes a prompt."""

    add_generation_prompt: bool | None = None  # true, unless the last message is continued
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default={}, max_length=MAX_VARIABLES)

    @model_validator(mode="after")
    def _asks_or_continues(self) -> Rendered:
        if self.add_generation_prompt and self.continue_final_message:
            raise RequestError(
                "continue_final_message needs add_generation_prompt: false; one begins an answer, one goes on with it",
                param="continue_final_message",
                code="invalid_value",
            )
        return self

    @property
    def rendering(self) -> Rendering:
        """Arguments of the codec's `encode_prompt`."""
        return Rendering(
            asking=self.add_generation_prompt is not False and not self.continue_final_message,
            continued=self.continue_final_message,
            variables=self.chat_template_kwargs,
        )
