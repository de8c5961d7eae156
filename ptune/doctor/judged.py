"""Rules on answers that are judged one by one, beside those on any conversation."""

from __future__ import annotations

from collections.abc import Iterator

from ptune.config.unpaired_preference import UnpairedPreference
from ptune.doctor.finding import Finding, Rule
from ptune.doctor.preferences import FEWEST_PAIRS, LONGER
from ptune.doctor.sets import Sets

OUTWEIGHS = 2.0  # times; the paper of KTO asks for 1 to 4/3


def one_verdict(sets: Sets) -> Iterator[Finding]:
    """All answers are desirable, or none is: there is nothing to tell apart."""
    found = sets.splits["train"].verdicts
    if (found.desirable and found.undesirable) or not found.desirable + found.undesirable:
        return
    all_are, missing = ("desirable", "undesirable") if found.desirable else ("undesirable", "desirable")
    yield Finding(
        "one-verdict",
        "error",
        f"every training answer is {all_are}: add {missing} ones"
        + (", or train chat_lora, which learns from good answers alone" if found.desirable else ""),
        None,
        found.desirable + found.undesirable,
    )


def one_verdict_outweighs(sets: Sets) -> Iterator[Finding]:
    """Desirable answers together weigh far more than undesirable ones, or far less."""
    found, task = sets.splits["train"].verdicts, sets.task
    if not (found.desirable and found.undesirable and isinstance(task, UnpairedPreference)):
        return
    times = task.desirable_weight * found.desirable / (task.undesirable_weight * found.undesirable)
    if 1 / OUTWEIGHS <= times <= OUTWEIGHS:
        return
    heavy, field, weight = (
        ("desirable", "undesirable-weight", task.undesirable_weight * times)
        if times > 1
        else ("undesirable", "desirable-weight", task.desirable_weight / times)
    )
    yield Finding(
        "one-verdict-outweighs",
        "warning",
        f"there are {found.desirable:,} desirable training answers and {found.undesirable:,} others, so that the {heavy} ones"
        f" outweigh the others {max(times, 1 / times):.1f} times: try --task.{field} {weight:.2g}",
        None,
        found.desirable if times > 1 else found.undesirable,
    )


def contradicting_verdicts(sets: Sets) -> Iterator[Finding]:
    """The same answer to the same prompt is called desirable and undesirable: the two cancel out."""
    for split, ledger in sets.splits.items():
        against, first = ledger.verdicts.contradictions()
        if len(against):
            yield Finding(
                "contradicting-verdicts",
                "warning",
                f"the answer of {ledger.place(int(first[0]))} with the other verdict ({len(against):,} such among"
                f" {len(ledger):,} {split} answers): keep the verdict that is right",
                ledger.place(int(against[0])),
                len(against),
            )


def one_length_wins(sets: Sets) -> Iterator[Finding]:
    """Desirable answers are nearly always longer than undesirable ones, or shorter: the length alone may be learnt."""
    found = sets.splits["train"].verdicts
    if min(found.desirable, found.undesirable) < FEWEST_PAIRS // 2:
        return
    longer = found.longer()
    for word, share in (("longer", longer), ("shorter", 1 - longer)):
        if share >= LONGER:
            yield Finding(
                "one-length-wins",
                "warning",
                f"of a desirable and an undesirable training answer the desirable one is the {word} one in {share:.0%} of all"
                " cases: add answers of which that is not so",
                None,
                found.desirable,
            )


SET_RULES = (
    Rule("one-verdict", "error", one_verdict),
    Rule("one-verdict-outweighs", "warning", one_verdict_outweighs),
    Rule("contradicting-verdicts", "warning", contradicting_verdicts),
    Rule("one-length-wins", "warning", one_length_wins),
)
