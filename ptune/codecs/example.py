"""A conversation or a text as a model learns it: tokens, and which of them are targets."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised example. `targets[i]`: whether token i is a target, predicted from the tokens before it."""

    ids: tuple[int, ...]
    targets: tuple[bool, ...]
    weight: float = field(default=1.0, kw_only=True)
    """How often each target counts in the loss while it trains."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def target_count(self) -> int:
        return sum(self.targets)
