"""The request body of /v1/translate. Strict, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from ptune.engine.decoder.request import Beams
from ptune.errors import RequestError

from .errors import UNSUPPORTED
from .message import Body
from .retrieval_schemas import text_of

MAX_TEXTS = 128
NOT_BUILT: dict[str, tuple[Any, ...]] = {"stream": (False,), "temperature": (0, 0.0), "n": (1,)}
"""Fields that are refused, each with the values that have no effect and are accepted."""

_ONE_OR_MORE: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_TEXTS},
    ]
}


class TranslateRequest(Body):
    """POST /v1/translate"""

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

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_built(cls, data: Any) -> Any:
        """Raises: RequestError that names the field."""
        for name in NOT_BUILT.keys() & data.keys() if isinstance(data, dict) else ():
            if data[name] is not None and data[name] not in NOT_BUILT[name]:
                raise RequestError(f"{name} is not supported here", param=name, code=UNSUPPORTED)
        return data

    @property
    def beams(self) -> Beams | None:
        """Beam search options for the engine; None = greedy. Raises: RequestError."""
        return None if self.num_beams == 1 else Beams(self.num_beams, self.length_penalty)
