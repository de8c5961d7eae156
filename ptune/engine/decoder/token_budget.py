"""Prompt tokens of a step: measured step times set the budget, and tenants share it by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.engine.decoder.sequence import TokenSequence

LEAST = 32  # prompt tokens of a step on however slow a machine: fewer would cost more than they save
FORGETTING = 0.8  # weight of the older measurements when the next one is added
OUTLIER = 4.0  # times the expected seconds at which one measurement is capped


class StepTimeModel:
    """Learns seconds = base + slope * tokens from measured steps; it has no clock of its own.

    Steps with and without prompts are averaged apart, and the line goes through both averages: so the cost of a prompt
    token is remembered through any number of steps that only generate.
    """

    def __init__(self, target_s: float | None, most: int) -> None:
        """target_s: desired time of a step; None for any time. most: prompt tokens of a step at most."""
        self._target_s, self._most = target_s, most
        self._light: tuple[float, float] | None = None  # average tokens and seconds of steps without prompts
        self._heavy: tuple[float, float] | None = None  # and with them

    def observe(self, tokens: int, seconds: float, *, prompts: bool) -> None:
        """Adds a measured step. prompts: whether it computed prompt tokens."""
        known = self._light if not prompts else self._heavy
        if known is not None:
            expected_s = known[1] * max(tokens / known[0], 1.0)
            seconds = min(seconds, OUTLIER * expected_s)
        new = (float(tokens), seconds) if known is None else _mixed(known, (tokens, seconds))
        if prompts:
            self._heavy = new
        else:
            self._light = new

    def fit(self) -> tuple[float, float] | None:
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
        """Prompt tokens that fit into the next step, beside one token for each generating sequence.

        From LEAST to the most; the most where no sequence is generating, as none would wait.
        """
        line = self.fit()
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


def allocate_prefill(
    budget: int, prompts: Sequence[TokenSequence], served: Callable[[str], float]
) -> dict[TokenSequence, int]:
    """Divides a budget of tokens among sequences; those that get none are left out.

    prompts: sequences with more than one token to compute, in order of admission.
    served: a tenant's counter of work; remainders go to the tenant served least.
    """
    sequences: dict[str, list[TokenSequence]] = {}
    for sequence in prompts:
        sequences.setdefault(sequence.tenant, []).append(sequence)
    counts: dict[TokenSequence, int] = {}
    for tenant, tokens in _among_tenants(budget, sequences, served).items():
        counts.update(_among_sequences(tokens, sequences[tenant]))
    return counts


def _among_tenants(
    budget: int, sequences: dict[str, list[TokenSequence]], served: Callable[[str], float]
) -> dict[str, int]:
    """Divides a budget among tenants by weight; tokens that one cannot use go to the others."""
    wanted = {
        tenant: sum(sequence.uncached for sequence in sequences[tenant])
        for tenant in sorted(sequences, key=served)
    }
    weight = {tenant: sequences[tenant][0].weight for tenant in wanted}
    given = dict.fromkeys(wanted, 0)
    while budget and wanted:
        total, whole = sum(weight[tenant] for tenant in wanted), budget
        for tenant in list(wanted):
            tokens = min(wanted[tenant], max(1, int(whole * weight[tenant] / total)), budget)
            given[tenant] += tokens
            wanted[tenant] -= tokens
            budget -= tokens
            if not wanted[tenant]:
                del wanted[tenant]
    return given


def _among_sequences(budget: int, sequences: Sequence[TokenSequence]) -> dict[TokenSequence, int]:
    """Gives the first half to the oldest sequence, so that none starves, and the rest to those with the fewest tokens left,
    so that a short prompt does not wait behind a long one."""
    counts: dict[TokenSequence, int] = {}
    for sequence in sequences[:1]:
        counts[sequence] = min(sequence.uncached, (budget + 1) // 2)
        budget -= counts[sequence]
    for sequence in sorted(sequences, key=lambda sequence: sequence.uncached - counts.get(sequence, 0)):
        more = min(sequence.uncached - counts.get(sequence, 0), budget)
        counts[sequence] = counts.get(sequence, 0) + more
        budget -= more
    return {sequence: count for sequence, count in counts.items() if count}
