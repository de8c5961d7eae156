"""An amount of memory as a user writes it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from ptune.errors import UsageError

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_bytes(text: str) -> int:
    """'24GB', '24 GiB', '800 MB' or '24g' in bytes; GB is 10^9 bytes, GiB 2^30.

    Raises: UsageError.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or (match[2] == "i") or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not an amount of memory: say 24GB or 24GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _checked(text: str) -> str:
    try:
        parse_bytes(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return text


MemorySize = Annotated[str, AfterValidator(_checked)]
"""A recipe's field that holds one."""
