"""The two kinds of evidence in a canary's trial: what users say of its answers, and its loss on held-out texts.

A decision errs where a canary is rolled back that is no worse, or promoted that is worse by more than the margin. Only one of
the two is possible for any one canary, so each of the two decisions may take the whole `error` that the rule allows: one bound
all of it where it decides alone, two bounds half of it where both are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .confidence import BoundedMean

if TYPE_CHECKING:
    from ptune.formats.bundle import ByLoss, ByUsers

Decision = Literal["promoted", "rolled back"]
MOST_APART = 1.0
"""Nats per token: a text whose losses differ by more counts as this much, so that no few texts decide."""


class Evidence(Protocol):
    """What speaks for a canary, or against it."""

    def decision(self) -> Decision | None:
        """Rolled back: the canary is worse. Promoted: it is not worse by more than the margin. None: neither is certain."""

    def described(self) -> dict[str, Any]:
        """For an operator to look at."""

    def told(self) -> str:
        """For the log."""


class UserScores:
    """Scores of the answers of an alias's adapter and of its canary. Users get one or the other, so nothing is paired."""

    def __init__(self, rule: ByUsers, now: str, canary: str) -> None:
        self._margin = rule.margin
        self._now, self._canary = now, canary
        self.of = {adapter: BoundedMean(rule.error / 2) for adapter in (now, canary)}

    def decision(self) -> Decision | None:
        now, canary = self.of[self._now], self.of[self._canary]
        if not (now.certain and canary.certain):
            return None
        if canary.upper <= now.lower:
            return "rolled back"
        return "promoted" if canary.lower >= now.upper - self._margin else None

    def described(self) -> dict[str, Any]:
        return {
            adapter: {"scores": scores.count, **scores.described()} for adapter, scores in self.of.items()
        }

    def told(self) -> str:
        now, canary = self.of[self._now], self.of[self._canary]
        return f"mean score {canary.mean or 0:.3g} of {canary.count} answers against {now.mean or 0:.3g} of {now.count}"


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood of a text's answers, and how many of their tokens it is the sum of."""

    nats: float
    tokens: int

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.nats + other.nats, self.tokens + other.tokens)


NO_LOSS = Loss(0.0, 0)
State = Literal["running", "undecided", "stopped"]
"""Undecided: all texts are compared and nothing is certain. Stopped: it cannot go on, see `problem`."""


class PairedLosses:
    """Losses of the same texts under an alias's adapter and under its canary.

    Each text counts once, however long: texts are independent of each other, their tokens are not.
    """

    def __init__(self, rule: ByLoss, now: str, canary: str) -> None:
        self.rule = rule
        self._now, self._canary = now, canary
        self.losses = {now: NO_LOSS, canary: NO_LOSS}
        self.difference = BoundedMean(rule.error, -MOST_APART, MOST_APART)  # canary - now, nats per token
        self.texts: int | None = None  # in the file; None = it was not read yet
        self.state: State = "running"
        self.problem = ""

    @property
    def left(self) -> int:
        """Texts that are not compared yet, as far as is known."""
        return 0 if self.texts is None or self.state != "running" else self.texts - self.difference.count

    def add(self, now: Loss, canary: Loss) -> None:
        """The losses of one text. Both are divided by one number of tokens: where a canary writes a text in more tokens than
        the adapter does, its probability still is that of the same text."""
        self.losses[self._now] += now
        self.losses[self._canary] += canary
        apart = (canary.nats - now.nats) / now.tokens
        self.difference.add(max(-MOST_APART, min(MOST_APART, apart)))

    def stop(self, problem: str) -> None:
        """Says why it cannot go on."""
        self.state, self.problem = "stopped", problem

    def per_token(self) -> dict[str, float]:
        """Loss of each adapter over all tokens so far, as `ptune evaluate` counts it."""
        return {adapter: loss.nats / loss.tokens for adapter, loss in self.losses.items() if loss.tokens}

    def decision(self) -> Decision | None:
        if not self.difference.certain:
            return None
        if self.difference.lower >= 0:
            return "rolled back"
        return "promoted" if self.difference.upper <= self.rule.margin else None

    def described(self) -> dict[str, Any]:
        problem = {"problem": self.problem} if self.problem else {}
        return {
            "state": self.state,
            **problem,
            "texts": self.texts,
            "compared": self.difference.count,
            "loss": self.per_token(),
            "difference": self.difference.described(),
        }

    def told(self) -> str:
        found = self.difference
        losses = " against ".join(f"{self.per_token().get(one, 0):.4g}" for one in (self._canary, self._now))
        return (
            f"loss {losses} on {found.count} texts, difference {found.mean or 0:.3g},"
            f" from {found.lower:.3g} to {found.upper:.3g}"
        )
