"""The request body of /v1/translate. Strict, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from ptune.engine.decoder.request import Beams
from ptune.errors import RequestError

from ..encoders.retrieval_schemas import text_of
from ..fields.known_fields import ANYWHERE, Harmless, Request

MAX_TEXTS = 128
NOT_BUILT: Harmless = {**ANYWHERE, "stream": (False,), "temperature": (0, 0.0), "n": (1,)}
"""Fields that are refused, each with the values that have no effect and are accepted."""

_ONE_OR_MORE: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_TEXTS},
    ]
}


class TranslateRequest(Request):
    """POST /v1/translate"""

    not_built: ClassVar[Harmless] = NOT_BUILT

    model: str = Field(max_length=256)
    text: Annotated[
        list[Annotated[Any, AfterValidator(text_of)]],  # of str
        Field(min_length=1, max_length=MAX_TEXTS),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        WithJsonSchema(_ONE_OR_MORE),
    ]
    source_language: str | None = Field(default=None, max_length=64)
    target_language: str | None = Field(default=None, max_length=64)
    max_tokens: int | None = Field(default=None, ge=1)
    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    return_token_ids: bool = False
    user: str | None = Field(default=None, max_length=1024)

    @model_validator(mode="after")
    def _penalty_needs_beams(self) -> TranslateRequest:
        if self.num_beams == 1 and self.length_penalty != 1:
            message = "length_penalty needs num_beams of 2 or more"
            raise RequestError(message, param="length_penalty", code="invalid_value")
        return self

    @property
    def beams(self) -> Beams | None:
        """Beam search options for the engine; None = greedy. Raises: RequestError."""
        return None if self.num_beams == 1 else Beams(self.num_beams, self.length_penalty)
