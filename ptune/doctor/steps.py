"""Rules about judged steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ptune.config.process_reward import RIGHT, WRONG, ProcessReward
from ptune.data.problems import FEW
from ptune.doctor.finding import Finding, Rule
from ptune.doctor.labels import Entries, Entry

_WRONG, _RIGHT = map(ProcessReward.labels.index, (WRONG, RIGHT))
FEWEST_WRONG = 20


def right_after_wrong(sets: Entries) -> Iterator[Finding]:
    """Steps that are right behind a wrong one: two ways to judge that must not be mixed."""
    entries = sets.entries("train")
    wrong = [entry for entry in entries if _WRONG in _verdicts(entry)]
    resumed = [entry for entry in wrong if (_WRONG, _RIGHT) in pairwise(_verdicts(entry))]
    if resumed:
        yield Finding(
            "right-after-wrong",
            "warning",
            f"a right step follows a wrong one, as in {len(resumed):,} of {len(wrong):,} training rows with a wrong step: keep it"
            " if each step is judged by itself; if a label means that all is right so far, what follows a wrong step is wrong",
            resumed[0].place,
            len(resumed),
            tuple(
                entry.place.number
                for entry in resumed[1:FEW]
                if entry.place.number is not None and entry.place.file == resumed[0].place.file
            ),
        )


def wrong_is_last(sets: Entries) -> Iterator[Finding]:
    """Every wrong step ends its row: where a row ends may be all that is learnt."""
    verdicts = [_verdicts(entry) for entry in sets.entries("train")]
    wrong = [row for row in verdicts if _WRONG in row and len(row) > 1]
    right = [row for row in verdicts if _WRONG not in row]
    if (
        len(wrong) >= FEWEST_WRONG
        and len(right) < len(wrong)
        and all(_WRONG not in row[:-1] for row in wrong)
    ):
        yield Finding(
            "wrong-is-last",
            "warning",
            f"each of the {len(wrong):,} training rows with a wrong step ends with it, and only {len(right):,} rows end well: add"
            " the steps that follow, or more rows without a wrong step, or the end of a row is what is learnt",
            None,
            len(wrong),
        )


RULES = (
    Rule("right-after-wrong", "warning", right_after_wrong),
    Rule("wrong-is-last", "warning", wrong_is_last),
)


def _verdicts(entry: Entry) -> Sequence[int]:
    assert isinstance(entry.label, tuple)
    return entry.label
