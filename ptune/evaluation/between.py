"""A figure with its interval, as text; alone where its rows say nothing of how it varies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def with_interval(figure: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    """ "98.6% [92.7%, 100.0%]", or "2.50"."""
    told = shown(figure["value"])
    if figure["interval"] is None:
        return told
    low, high = map(shown, figure["interval"])
    return f"{told} [{low}, {high}]"
