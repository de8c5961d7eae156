"""How many prompt tokens a step may compute without making those wait too long who are generating."""

from __future__ import annotations

LEAST = 32  # prompt tokens of a step, however slow the machine: fewer would cost more than they save
FORGETTING = 0.8  # what is left of an older measurement when the next one comes
OUTLIER = 4.0  # times the expected seconds that one measurement may count for


class Pace:
    """Learns seconds = base + slope * tokens from the steps that are measured; it has no clock of its own.

    Steps without prompts and steps with them are averaged apart, and the line goes through both averages: however long
    nothing but single tokens are computed, what a prompt's token costs is not forgotten.
    """

    def __init__(self, target_s: float | None, most: int) -> None:
        """target_s: what a step should take; None = any time. most: prompt tokens of a step."""
        self._target_s, self._most = target_s, most
        self._light: tuple[float, float] | None = None  # average tokens and seconds of steps without prompts
        self._heavy: tuple[float, float] | None = None  # and with them

    def told(self, tokens: int, seconds: float, *, prompts: bool) -> None:
        """A step of so many tokens took so long. prompts: whether tokens of prompts were among them."""
        known = self._light if not prompts else self._heavy
        if known is not None:
            expected_s = known[1] * max(tokens / known[0], 1.0)
            seconds = min(seconds, OUTLIER * expected_s)
        new = (float(tokens), seconds) if known is None else _mixed(known, (tokens, seconds))
        if prompts:
            self._heavy = new
        else:
            self._light = new

    def line(self) -> tuple[float, float] | None:
        """(base, slope) in seconds and seconds a token; None before a step with prompts was measured."""
        if self._heavy is None:
            return None
        tokens, seconds = self._heavy
        if self._light is not None and self._light[0] < tokens and self._light[1] < seconds:
            slope = (seconds - self._light[1]) / (tokens - self._light[0])
            base = seconds - slope * tokens
            if base >= 0:
                return base, slope
        return 0.0, seconds / tokens

    def prompt_tokens(self, generating: int) -> int:
        """Prompt tokens of the next step, in which so many tokens are computed for rows that are generating.

        From LEAST to the most; the most where nobody is generating, as nobody would wait.
        """
        line = self.line()
        if not generating or self._target_s is None or line is None:
            return self._most
        base, slope = line
        fitting = (self._target_s - base) / slope - generating if slope else self._most
        return int(min(self._most, max(LEAST, fitting)))


def _mixed(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    return (
        FORGETTING * old[0] + (1 - FORGETTING) * new[0],
        FORGETTING * old[1] + (1 - FORGETTING) * new[1],
    )
