"""Sums of adapters, as requests name them: `sft+0.5*dpo` is the update of sft and half of that of dpo.

The name of an adapter stands for that adapter, whatever characters it has; only what is no such name is read as a sum. So an
adapter whose own name has a + or a * cannot be a part of one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

MOST_PARTS = 8
PLUS, TIMES = "+", "*"
_PART = re.compile(r"\s*(?:(-?(?:\d{1,4}(?:\.\d{0,6})?|\.\d{1,6}))\s*\*\s*)?([^+*]*[^+*\s])\s*")


@dataclass(frozen=True)
class AdapterSum:
    """Adapters and the factors of their updates, in the order of the name. No adapter is there twice, and no factor is 0."""

    parts: tuple[tuple[str, float], ...]

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """Reads a name that is no adapter's own; None where it is no sum."""
        if PLUS not in text and TIMES not in text:
            return None
        terms = text.split(PLUS)
        found = [_PART.fullmatch(term) for term in terms]
        if len(terms) > MOST_PARTS or None in found:
            return None
        return cls._of((match[2], float(match[1] or 1)) for match in found if match is not None)

    @classmethod
    def _of(cls, terms: Iterable[tuple[str, float]]) -> Self | None:
        factors: dict[str, float] = {}
        for name, factor in terms:
            factors[name] = round(factors.get(name, 0.0) + factor, 6)
        parts = tuple((name, factor) for name, factor in factors.items() if factor)
        return cls(parts) if parts else None

    def renamed(self, name_of: Callable[[str], str]) -> Self | None:
        """The sum of what its parts' names stand for; None where nothing is left of it."""
        return self._of((name_of(name), factor) for name, factor in self.parts)

    @property
    def names(self) -> list[str]:
        """Of its parts."""
        return [name for name, _ in self.parts]

    @property
    def name(self) -> str:
        """The one way to write it: of one adapter alone, its own name."""
        return PLUS.join(
            name if factor == 1 else f"{factor:.10g}{TIMES}{name}" for name, factor in self.parts
        )


def parts_of(name: str, known: Collection[str]) -> tuple[tuple[str, float], ...]:
    """The adapters that a name stands for, with their factors; none where it stands for nothing known."""
    if name in known:
        return ((name, 1.0),)
    found = AdapterSum.parsed(name)
    return found.parts if found is not None and all(part in known for part in found.names) else ()


def digest_of(name: str, adapters: Mapping[str, str]) -> str | None:
    """What identifies an adapter's weights, or those of a sum; None where there is none of that name.

    adapters: name -> SHA-256 of its adapter.json.
    """
    if name in adapters:
        return adapters[name]
    if not (parts := parts_of(name, adapters)):
        return None
    text = "\n".join(f"{factor:.10g} {adapters[part]}" for part, factor in parts)
    return hashlib.sha256(text.encode()).hexdigest()
