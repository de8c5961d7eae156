"""Rules on pairs of answers, beside those on any conversation."""

from __future__ import annotations

from collections.abc import Iterator

from ptune.data.shapes.conversations import Preferred
from ptune.doctor.finding import Finding, Rule
from ptune.doctor.rows import Row
from ptune.doctor.sets import Sets

FEWEST_PAIRS = 50
LONGER = 0.8  # share of pairs

LEFT_OUT = frozenset({"conflicting-answers", "label-imbalance", "unknown-labels"})
"""Rules of sets that say nothing here: a prompt may have many pairs, and answers are no labels."""


def equal_answers(row: Row) -> str | None:
    """Two answers that are the same: there is nothing to prefer, and no loss could fall."""
    pair = row.sample.conversation
    if isinstance(pair, Preferred) and pair.chosen == pair.rejected:
        return "chosen and rejected are the same answer: remove the row"
    return None


def one_length_wins(sets: Sets) -> Iterator[Finding]:
    """The better answer is nearly always the longer one, or the shorter: the length alone may be learnt."""
    ledger = sets.splits["train"]
    pairs = ledger.longer + ledger.shorter
    for word, count in (("longer", ledger.longer), ("shorter", ledger.shorter)):
        if pairs >= FEWEST_PAIRS and count >= LONGER * pairs:
            yield Finding(
                "one-length-wins",
                "warning",
                f"the better answer is the {word} one in {count / pairs:.0%} of the training pairs: add pairs where it is"
                " not, or choose --task.loss simpo, which compares log-probabilities per token",
                None,
                count,
            )


def contradicting_pairs(sets: Sets) -> Iterator[Finding]:
    """The same two answers to the same prompt with one and then the other as the better one: the two cancel out."""
    for split, ledger in sets.splits.items():
        against, first = ledger.verdicts.contradictions()
        if len(against):
            yield Finding(
                "contradicting-pairs",
                "warning",
                f"the answers of {ledger.place(int(first[0]))} with the other one as the better ({len(against):,} such among"
                f" {len(ledger):,} {split} pairs): keep the pair that is right",
                ledger.place(int(against[0])),
                len(against),
            )


ROW_RULES = (Rule("equal-answers", "error", equal_answers),)
SET_RULES = (
    Rule("contradicting-pairs", "warning", contradicting_pairs),
    Rule("one-length-wins", "warning", one_length_wins),
)
