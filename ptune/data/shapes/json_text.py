"""Lists in cells of text: messages and texts as JSON, as CSV and many files of columns hold them."""

from __future__ import annotations

import json
import re
from typing import Any

from ptune.codecs.messages import ROLES
from ptune.errors import DataError

_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")


def messages_or_text(value: Any, path: str) -> Any:
    """Messages where a text is the JSON of some; any other text stays one, and so an answer that is a JSON list itself.

    Raises: DataError for a text that begins like messages and is not JSON, such as those that Python writes with ' for ".
    """
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    found = _listed(value)
    if found is None and _MESSAGES.match(value):
        raise DataError(f"{path} is text that begins like messages, but not JSON")
    return found if found and all(map(_is_message, found)) else value


def objects_of(value: Any, path: str) -> list[dict[str, Any]]:
    """A list of objects, or its JSON text, as in CSV and many files of columns."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{path} is text, but not JSON") from None
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{path} must be a list of objects")
    return list(value)


def texts_or_text(value: str) -> list[str] | str:
    """Texts where a text is the JSON list of some; any other text stays one."""
    found = _listed(value) if value.lstrip().startswith("[") else None
    return value if found is None or not all(isinstance(one, str) for one in found) else found


def _listed(value: str) -> list[Any] | None:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and (item.get("role") in ROLES or {"from", "value"} <= item.keys())
