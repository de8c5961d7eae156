"""Rules on whole sets: repetitions, overlaps, labels, overlong examples."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.translation import Translation
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.doctor.finding import Finding, Rule
from ptune.doctor.split_statistics import Hashes, Label, Ledger

# Share of a held-out split from which an overlap is an error. The test set gives the final figures; the validation set
# only chooses among steps, which a few repeated rows do not change.
OVERLAP_ERROR = {"validation": 0.5, "test": 0.01}
FEWEST_EXAMPLES = 20  # of a set with labels
EXAMPLES_A_LABEL = 4  # on average, at least
IMBALANCE = 20  # times
_NAMED = 10  # labels
Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Sets:
    """All splits and the recipe's task."""

    splits: Mapping[str, Ledger]
    task: Chat

    @property
    def labels(self) -> dict[str, Label]:
        """The training set's labels if its answers come from a small closed set; else empty."""
        train = self.splits["train"]
        known = train.labels or {}
        enough = len(train) >= max(FEWEST_EXAMPLES, EXAMPLES_A_LABEL * len(known))
        return known if enough else {}


def duplicates(sets: Sets) -> Iterator[Finding]:
    """The same example twice in a split: it weighs twice, and more copies are memorised."""
    for split, ledger in sets.splits.items():
        repeated, earlier = _repeated(ledger.texts)
        if len(repeated):
            first = int(repeated.argmin())
            yield Finding(
                "duplicates",
                "warning",
                f"a copy of {ledger.place(int(earlier[first]))} ({len(repeated):,} copies among {len(ledger):,} {split} examples):"
                " remove them, unless they are meant to weigh more",
                ledger.place(int(repeated[first])),
                len(repeated),
            )


def conflicting_answers(sets: Sets) -> Iterator[Finding]:
    """The same question with different answers: the model can only learn to guess between them."""
    ledger = sets.splits["train"]
    order = np.lexsort((np.arange(len(ledger)), ledger.prompts))
    prompts, texts = ledger.prompts[order], ledger.texts[order]
    starts = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]]) if len(order) else order
    of = np.repeat(starts, np.diff(np.r_[starts, len(order)]))  # index of the first row with the same prompt
    differs = texts != texts[of]
    if differs.any():
        at = np.flatnonzero(differs)
        first = at[order[at].argmin()]
        yield Finding(
            "conflicting-answers",
            "warning",
            f"the question of {ledger.place(int(order[of[first]]))} with another answer ({len(at):,} such among {len(ledger):,}"
            " training examples): keep the better answer, unless several are meant",
            ledger.place(int(order[first])),
            len(at),
        )


def validation_overlap(sets: Sets) -> Iterator[Finding]:
    """Validation examples that are also in training: the validation loss is too good."""
    yield from _overlap(sets, "validation", ("train",))


def test_overlap(sets: Sets) -> Iterator[Finding]:
    """Test examples that are also in training or validation: the final figures are too good."""
    yield from _overlap(sets, "test", ("train", "validation"))


def label_imbalance(sets: Sets) -> Iterator[Finding]:
    """A label that is far rarer than another: it is hardly learned."""
    labels = sets.labels
    if len(labels) < 2:
        return
    common = max(labels, key=lambda label: labels[label].count)
    rare = min(labels, key=lambda label: labels[label].count)
    if labels[common].count >= IMBALANCE * labels[rare].count:
        times = labels[common].count / labels[rare].count
        yield Finding(
            "label-imbalance",
            "warning",
            f"label {common!r} has {labels[common].count} examples, {rare!r} only {labels[rare].count}, {times:.0f} times"
            " fewer: add examples of the rare one, and look at each label's own figures",
            labels[rare].place,
            labels[rare].count,
        )


def unknown_labels(sets: Sets) -> Iterator[Finding]:
    """Labels that are held out but not in training: mostly spelling errors."""
    known = sets.labels
    for split in ("validation", "test"):
        held_out = sets.splits[split].labels or {}
        unknown = {label: found for label, found in held_out.items() if label not in known} if known else {}
        if not unknown:
            continue
        label, first = next(iter(unknown.items()))
        folded = {name.casefold(): name for name in known}
        near = difflib.get_close_matches(label.casefold(), folded, n=1)
        others = f", as {len(unknown) - 1} others of {split}" if len(unknown) > 1 else ""
        names = ", ".join(map(repr, list(known)[:_NAMED])) + (", …" if len(known) > _NAMED else "")
        hint = f"is {folded[near[0]]!r} meant?" if near else f"known are {names}"
        yield Finding(
            "unknown-labels",
            "warning",
            f"label {label!r} is in no training example{others}: {hint}",
            first.place,
            sum(found.count for found in unknown.values()),
        )


def over_long(sets: Sets) -> Iterator[Finding]:
    """Examples over the length limit, and the effect of `task.on_overlong`, counted in advance."""
    for split, ledger in sets.splits.items():
        over, policy = ledger.overlong, sets.task.on_overlong
        if not over.count:
            continue
        whole = isinstance(sets.task, Preference | UnpairedPreference)
        choice = "drop" if whole else "truncate, drop or split"
        share = over.lost_targets / max(ledger.targets, 1)
        what = {
            "error": f"choose --task.on-overlong {choice}, or raise --task.max-length up to the model's context",
            "truncate": f"truncate cuts off {share:.1%} of all targets, and with them the ends of answers, so that these"
            f" do not teach where to stop; nothing is left of {over.emptied}",
            "drop": "drop leaves them out",
            "split": "split cuts them into windows, of which only the first knows the question",
        }[policy]
        yield Finding(
            "over-long",
            "error" if policy == "error" else "warning",
            f"longer than {ledger.limit:,} tokens ({over.count:,} of {len(ledger):,} {split} examples; the longest has"
            f" {over.longest:,}): {what}",
            over.first,
            over.count,
        )


RULES = (
    Rule("duplicates", "warning", duplicates),
    Rule("conflicting-answers", "warning", conflicting_answers),
    Rule("validation-overlap", "error", validation_overlap),
    Rule("test-overlap", "error", test_overlap),
    Rule("label-imbalance", "warning", label_imbalance),
    Rule("unknown-labels", "warning", unknown_labels),
    Rule("over-long", "error", over_long),
)


def _repeated(texts: Hashes) -> tuple[Indices, Indices]:
    """Indices of examples that equal an earlier one, and of the first equal one for each."""
    order = np.argsort(texts, kind="stable")
    ordered = texts[order]
    again = np.flatnonzero(np.r_[False, ordered[1:] == ordered[:-1]])
    return order[again], order[np.searchsorted(ordered, ordered[again])]


def _compared(ledger: Ledger, task: Chat) -> Hashes:
    """The hashes to compare for overlaps: prompts for translations and preferences, since a trained source or prompt is
    not a test; else all tokens."""
    by_prompt = isinstance(task, Translation | Preference | UnpairedPreference)
    return ledger.prompts if by_prompt else ledger.texts


def _overlap(sets: Sets, split: str, others: tuple[str, ...]) -> Iterator[Finding]:
    held = sets.splits[split]
    for other in others:
        known = sets.splits[other]
        theirs, ours = _compared(known, sets.task), _compared(held, sets.task)
        shared = np.flatnonzero(np.isin(ours, theirs))
        if not len(shared):
            continue
        first = int(shared[0])
        twin = known.place(int(np.flatnonzero(theirs == ours[first])[0]))
        share = len(shared) / len(held)
        yield Finding(
            f"{split}-overlap",
            "error" if share >= OVERLAP_ERROR[split] else "warning",
            f"the same as {twin}, which is of {other} ({len(shared):,} of {len(held):,} {split} examples, {share:.1%}): remove it"
            " from one of the two",
            held.place(first),
            len(shared),
        )
