"""Sees that training has collapsed: the model has lost what it had learnt, and goes on as a constant answer.

All limits compare means of the training loss with two levels: its start (the first three steps) and, where there are labels,
the loss of the best constant answer, which gives every label its share. The *floor* is the lower of the two, the *top* the
higher. What the training losses suggest is believed only if the validation loss says so, too; so a suspicion costs a
validation, at most one in 20 steps, and a set that is learnt by heart (its validation loss rises while its training loss
falls) raises no alarm. A collapse is one of

- *back*: eight steps in a row were below 0.6 of the floor, and twenty have given back nine tenths of it; or the validation
  loss has given back three quarters of what it had gained, and so has the training loss;
- *above*: twenty steps in a row are a fifth above the top: worse than at the start;
- *constant*: half of the steps are done, five in a row were three tenths above the top, and neither loss is below that of
  the constant answer. This is the one case in which training may only be slow, so it is no reason to end a training, only
  to try a lower rate. Without the spike it is no collapse: words often stay at the constant answer for hundreds of steps
  before they are learnt, and a lower rate would only lengthen that.

The state is a few numbers of the losses so far, so that a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIRST, _LOW, _HIGH, _WINDOW = 3, 8, 5, 20
_FAR, _BACK, _BACK_VALIDATED, _ABOVE, _SPIKED = 0.6, 0.9, 0.75, 1.2, 1.3
_FLAT = 0.85  # of the constant answer's loss: twenty noisy batches from here to 1 / 0.85 are at it
_LEARNT, _CONSTANT = 0.95, 0.98  # of the constant answer's loss: below is learnt; above is not


@dataclass(frozen=True)
class Course:
    """The training losses so far, of steps that can be compared: not those of a pass from short rows to long ones."""

    start: tuple[float, ...] = ()  # the first three
    last: tuple[float, ...] = ()  # the last twenty
    lowest: float | None = None  # lowest mean of eight in a row
    highest: float | None = None  # highest mean of five in a row
    suspected: int | None = None  # the last step at which a suspicion led to a validation

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Course:
        """The course in state.json."""
        return cls(**{**record, **{name: tuple(record.get(name, ())) for name in ("start", "last")}})

    @property
    def first(self) -> float:
        """Mean of the first losses; infinite where there is none yet."""
        return statistics.fmean(self.start) if self.start else math.inf

    def after(self, loss: float) -> Course:
        """The course with one more step."""
        last = (*self.last, loss)[-_WINDOW:]
        low = _mean_of(last, _LOW)
        high = _mean_of(last, _HIGH)
        lows = [value for value in (self.lowest, low) if value is not None]
        highs = [value for value in (self.highest, high) if value is not None]
        return Course(
            start=self.start if len(self.start) == _FIRST else (*self.start, loss),
            last=last,
            lowest=min(lows, default=None),
            highest=max(highs, default=None),
            suspected=self.suspected,
        )


@dataclass(frozen=True)
class Levels:
    """The loss per target of the best constant answer on the training and the validation rows; None without labels."""

    training: float | None = None
    validation: float | None = None

    def learnt(self, start: float, validation_loss: float) -> bool:
        """Whether a validation loss shows that something was learnt."""
        return validation_loss < _LEARNT * (start if self.validation is None else self.validation)

    def nothing_learnt(self, best_loss: float | None) -> bool:
        """Whether no validation was better than the constant answer. False if that is unknown."""
        if self.validation is None or best_loss is None:
            return False
        return best_loss >= _CONSTANT * self.validation


@dataclass(frozen=True)
class Watched:
    """One moment of a training: what is known after a step."""

    step: int  # counted from 1
    steps: int
    course: Course
    levels: Levels
    best_loss: float | None = None  # of earlier validations

    @property
    def now(self) -> float:
        """Mean of the last twenty losses."""
        return statistics.fmean(self.course.last)

    @property
    def floor(self) -> float:
        return min(
            self.course.first, self.course.first if self.levels.training is None else self.levels.training
        )

    @property
    def top(self) -> float:
        return max(self.course.first, self.floor if self.levels.training is None else self.levels.training)

    def suspicious(self) -> bool:
        """Whether the training losses ask for a validation, which decides."""
        asked = self.course.suspected
        if len(self.course.last) < _WINDOW or (asked is not None and self.step - asked < _WINDOW):
            return False
        return self._above() or self._back(_BACK, _FAR)

    def collapse(self, validation_loss: float | None, *, may_be_slow: bool = False) -> str | None:
        """What has happened, or None. may_be_slow: whether a constant answer that may yet be learnt from counts, too.

        validation_loss: measured after this step; None if nothing is held out.
        """
        if len(self.course.last) < _WINDOW:
            return None
        if validation_loss is None:
            return self._told() if self._above() or self._back(_BACK, _FAR) else None
        level = self.floor if self.levels.validation is None else self.levels.validation
        best = self.best_loss
        above = self._above() and validation_loss >= level and (best is None or validation_loss >= best)
        back = self._back(_BACK, _FAR) and validation_loss >= _LEARNT * level
        if best is not None and best <= 0.9 * level:
            lost = validation_loss >= best + _BACK_VALIDATED * (level - best)
            back = back or (lost and self._back(_BACK_VALIDATED, 1.0))
        constant = may_be_slow and self._constant(validation_loss)
        return self._told() if above or back or constant else None

    def _back(self, share: float, far: float) -> bool:
        """Whether the loss was below `far` of the floor, and has given back `share` of what it had gained."""
        lowest = self.course.lowest
        if lowest is None or lowest >= far * self.floor:
            return False
        return self.now >= lowest + share * (self.floor - lowest)

    def _above(self) -> bool:
        return self.now >= _ABOVE * self.top

    def _constant(self, validation_loss: float) -> bool:
        training, validation, highest = self.levels.training, self.levels.validation, self.course.highest
        if training is None or validation is None or highest is None or 2 * self.step < self.steps:
            return False
        flat = validation_loss >= _CONSTANT * validation and self.now >= _FLAT * training
        return flat and highest >= _SPIKED * self.top

    def _told(self) -> str:
        level = self.levels.training
        beside = "" if level is None else f", and that of always giving the same answer is {level:.3g}"
        return f"the mean loss of the last {_WINDOW} steps is {self.now:.3g}; it began at {self.course.first:.3g}{beside}"


def _mean_of(losses: tuple[float, ...], count: int) -> float | None:
    """Mean of the last `count` losses; None if there are fewer."""
    return statistics.fmean(losses[-count:]) if len(losses) >= count else None
