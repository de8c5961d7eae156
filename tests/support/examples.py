"""How many examples Hypothesis tries: by day a third of what it tries in the long forms, where a test says so."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

by_day = False  # set before test files are imported, where `slow` is left out


def most(examples: int, **more: Any) -> settings:
    """`hypothesis.settings` for a test that takes seconds. examples: by night."""
    return settings(max_examples=examples // 3 if by_day else examples, **more)
