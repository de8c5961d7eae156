"""Private-use characters (Unicode, chapter 23.5): they have no meaning of their own, so they can mark places in text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from ptune.errors import TemplateError

_PLANES = ((0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))


def unused_characters(value: Any) -> Iterator[str]:
    """Private-use characters that do not occur in `value`, which is JSON-like. Reads it only when the first is requested.

    Raises: TemplateError, from the iterator, if `value` contains them all.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    for character in map(chr, itertools.chain.from_iterable(itertools.starmap(range, _PLANES))):
        if character not in text:
            yield character
    raise TemplateError("the messages hold every private-use character of Unicode; no text needs them")
