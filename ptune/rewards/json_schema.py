"""Whether an answer is JSON, and the JSON that a schema asks for (https://json-schema.org)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptune.rewards.reward import Function, RewardError, text_of

NO_JSON, OTHER_JSON, VALID = 0.0, 0.5, 1.0
_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^[ \t]*```[ \t\r]*$", re.DOTALL | re.MULTILINE)


def json_schema(argument: str | None) -> Function:
    """0 for what is no JSON, 0.5 for JSON that the schema does not allow, 1 for what it allows. The answer is JSON alone, or has it
    in its last fence, ```json or without a name. argument: the schema's file."""
    if not argument:
        raise ValueError("no file stands behind the colon")
    validator = _validator(Path(argument))

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return [_score(text_of(completion), validator, argument) for completion in completions]

    return reward


def _validator(file: Path) -> Any:
    """Raises: ValueError where there is no valid schema in the file."""
    try:
        import jsonschema
        import referencing
    except ImportError:
        raise ValueError("it needs jsonschema: pip install '.[train]'") from None
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    except jsonschema.SchemaError as error:
        raise ValueError(f"{file} is no JSON schema: {error.message} at {error.json_path}") from None
    return kind(schema, registry=referencing.Registry())  # nothing is fetched


def _score(text: str, validator: Any, file: str) -> float:
    import referencing.exceptions

    fences = [inside for name, inside in _FENCE.findall(text) if name.casefold() in ("", "json")]
    try:
        value = json.loads(fences[-1] if fences else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_JSON
    try:
        return VALID if validator.is_valid(value) else OTHER_JSON
    except RecursionError:
        return OTHER_JSON
    except referencing.exceptions.Unresolvable as error:
        raise RewardError(f"{file} refers to {error.ref!r}, which is not in it") from None


def _refuse(constant: str) -> Any:
    """NaN and the like, which Python reads and JSON has not."""
    raise ValueError(constant)
