"""Objects that say by their `type` what they are: the blocks of Anthropic's API, the items and parts of OpenAI's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ..http.errors import UNKNOWN, UNSUPPORTED
from .message import Body


def parsed(kind: type[Body], value: Any) -> Body:
    """An object of this kind. Raises: PydanticCustomError with the place inside it, without pydantic's list of errors."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        unknown = problem["type"] == "extra_forbidden"
        message = "there is no such field; leave it out" if unknown else problem["msg"]
        # A message is a template to pydantic, and what it says may quote the client.
        told = {
            "told": f"{path.removeprefix('.')}: {message.removeprefix('Value error, ')}".removeprefix(": ")
        }
        code = UNKNOWN if unknown else problem["type"]
        raise PydanticCustomError(
            code if code in (UNKNOWN, UNSUPPORTED) else "value_error", "{told}", told
        ) from None


def one_of(kinds: Mapping[str, type[Body]], word: str) -> Callable[[Any], Body]:
    """A validator of objects, each of the kind that its `type` names. word: what such an object is called, with its article."""

    def read(value: Any) -> Body:
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise ValueError(f"must be {word}: an object with a type")
        if name not in kinds:
            message = "{word} of type {name} is not supported; send {known}"
            known = " or ".join(kinds)
            raise PydanticCustomError(
                UNSUPPORTED, message, {"word": word, "name": repr(name[:40]), "known": known}
            )
        return parsed(kinds[name], value)

    return read


def typed_schema(kinds: Mapping[str, type[Body]]) -> dict[str, Any]:
    """The JSON schema of what `one_of` reads."""
    return {"type": "object", "properties": {"type": {"enum": list(kinds)}}, "required": ["type"]}
