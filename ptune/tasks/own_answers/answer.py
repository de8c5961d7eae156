"""An answer of the model that is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An answer as the engine sampled it."""

    ids: tuple[int, ...]  # with the token that ends it, if it was not cut
    log_probabilities: tuple[float, ...]  # of its tokens, the engine's
    finished: bool  # else it was cut at its longest
