"""How many tokens a draft model should propose: as many as bring the most tokens a second. Arithmetic only: no clock.

What a draft brings depends on the text and on both models, what it costs on the machine and on how many sequences share a step. So
both are measured, for each number of sequences apart: the share a of proposed tokens that are right, and the seconds of a step with
drafts of each length. A draft of k tokens brings 1 + a + … + a^k (Leviathan et al. 2023, equation 1). Length 0 is one of
the lengths: where drafts do not pay there are none, but for a few steps now and then, for texts change.
"""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = (0, 2, 4, 8)
"""Tokens of a draft."""
TRIAL = 4  # steps in which a length is tried
PERIOD = 160  # steps from trial to trial
MEMORY = 0.97  # weight of what was measured before, at each measurement


@dataclass
class _Mean:
    """A mean of which the newest values weigh most."""

    total: float = 0.0
    count: float = 0.0

    def add(self, total: float, count: float) -> None:
        self.total, self.count = MEMORY * self.total + total, MEMORY * self.count + count

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


class _Choice:
    """The lengths for about as many sequences."""

    def __init__(self) -> None:
        self._right = _Mean()
        self._seconds = {length: _Mean() for length in LENGTHS}
        self._trials = [length for length in LENGTHS for _ in range(TRIAL)]
        self._steps = self._tried = 0

    def next(self) -> int:
        if self._trials:
            return self._trials[-1]
        best = max(LENGTHS, key=self._rate)
        self._steps += 1
        if self._steps % PERIOD == 0:
            others = [length for length in LENGTHS if length != best]
            self._tried += 1
            self._trials = [others[self._tried % len(others)]] * TRIAL
        return best

    def observe(self, length: int, right: int, tried: int, seconds: float) -> None:
        self._right.add(right, tried)
        self._seconds[length].add(seconds, 1)
        if self._trials and self._trials[-1] == length:
            self._trials.pop()

    def _rate(self, length: int) -> float:
        """Tokens a second of a sequence."""
        return sum(self._right.value**power for power in range(length + 1)) / self._seconds[length].value


class DraftLength:
    """Chooses the length of a step's drafts."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def choose(self, sequences: int) -> int:
        """Tokens of a draft for each of so many generating sequences; 0 for none."""
        return self._of(sequences).next()

    def observe(self, sequences: int, length: int, right: int, tried: int, seconds: float) -> None:
        """Records a step with drafts of a length, of all sequences together.

        right: draft tokens that were accepted. tried: those, and the first wrong one of each draft. seconds: drafting included, over 0.
        """
        self._of(sequences).observe(length, right, tried, seconds)

    def _of(self, sequences: int) -> _Choice:
        return self._choices.setdefault(sequences.bit_length(), _Choice())
