"""Whether an answer is JSON, and the JSON that a schema asks for (https://json-schema.org)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import regex as patterns

from ptune.rewards.regex import LIMIT_S
from ptune.rewards.reward import Function, RewardError, text_of

NO_JSON, OTHER_JSON, VALID = 0.0, 0.5, 1.0
_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^[ \t]*```[ \t\r]*$", re.DOTALL | re.MULTILINE)


def json_schema(argument: str | None) -> Function:
    """0 for what is no JSON, 0.5 for JSON that the schema does not allow, 1 for what it allows. The answer is JSON alone, or has it
    in its last fence, ```json or without a name. argument: the schema's file; without one each row has its own, in column `schema`."""
    if argument is None:
        _needed()
        return _by_row
    if not argument:
        raise ValueError("no file stands behind the colon")
    validator = _of_file(Path(argument))

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return [_score(text_of(completion), validator, argument) for completion in completions]

    return reward


def _by_row(
    prompts: Sequence[Any], completions: Sequence[Any], schema: Sequence[Any], **columns: Sequence[Any]
) -> list[float | None]:
    validators: dict[str, Any] = {}
    scores: list[float | None] = []
    for completion, own in zip(completions, schema, strict=True):
        if own is None:
            scores.append(None)
            continue
        text = own if isinstance(own, str) else json.dumps(own)
        if text not in validators:
            try:
                validators[text] = _validator(text, f"the schema {text[:60]}")
            except ValueError as error:
                raise RewardError(str(error)) from None
        scores.append(_score(text_of(completion), validators[text], "the row's schema"))
    return scores


def _of_file(file: Path) -> Any:
    """Raises: ValueError where there is no valid schema in the file."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    return _validator(text, str(file))


def _validator(text: str, named: str) -> Any:
    """Raises: ValueError where the text is no valid schema."""
    _needed()
    import jsonschema
    import referencing

    try:
        schema = json.loads(text)
        if not isinstance(schema, dict | bool):
            raise ValueError(f"{named} is no JSON schema: it is neither an object nor true or false")
        if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
            raise ValueError(
                f"{named} is no JSON schema: $schema is {schema['$schema']!r}, and has to be text"
            )
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except json.JSONDecodeError as error:
        raise ValueError(f"{named} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{named} is nested too deeply to be read") from None
    except jsonschema.SchemaError as error:
        raise ValueError(f"{named} is no JSON schema: {error.message} at {error.json_path}") from None
    timed = jsonschema.validators.extend(
        kind,
        {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional},
    )
    if isinstance(schema, dict):
        schema.pop("$schema", None)  # or a reference to the whole would be judged without the time
    return timed(schema, registry=referencing.Registry())  # nothing is fetched


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    """jsonschema's own, and so are the two below, but for the time that a pattern may take."""
    import jsonschema

    if validator.is_type(value, "string") and not _found(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, of: dict[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for pattern, own in of.items() if validator.is_type(value, "object") else ():
        for name, inside in value.items():
            if _found(pattern, name):
                yield from validator.descend(inside, own, path=name, schema_path=pattern)


def _additional(validator: Any, own: Any, value: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    known, of = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, inside in value.items() if validator.is_type(value, "object") else ():
        if name in known or any(_found(pattern, name) for pattern in of):
            continue
        if validator.is_type(own, "object"):
            yield from validator.descend(inside, own, path=name)
        elif not own:
            yield jsonschema.ValidationError(f"{name!r} is not allowed")


def _found(pattern: str, text: str) -> bool:
    try:
        return patterns.search(pattern, text, timeout=LIMIT_S) is not None
    except TimeoutError:
        raise RewardError(
            f"the schema's pattern {pattern!r} took more than {LIMIT_S:g} s on a text of {len(text)} characters: write it without"
            " repetition inside repetition"
        ) from None


def _needed() -> None:
    """Raises: ValueError where the library is not installed."""
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        raise ValueError("it needs jsonschema: pip install '.[train]'") from None


def _score(text: str, validator: Any, file: str) -> float:
    import referencing.exceptions

    fences = [inside for name, inside in _FENCE.findall(text) if name.casefold() in ("", "json")]
    try:
        value = json.loads(fences[-1] if fences else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_JSON
    try:
        return VALID if validator.is_valid(value) else OTHER_JSON
    except (RecursionError, OverflowError):  # also of 1e400 beside multipleOf 0.1, which has no float
        return OTHER_JSON
    except referencing.exceptions.Unresolvable as error:
        raise RewardError(f"{file} refers to {error.ref!r}, which is not in it") from None


def _refuse(constant: str) -> Any:
    """NaN and the like, which Python reads and JSON has not."""
    raise ValueError(constant)
