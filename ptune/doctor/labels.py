"""Rules on whole sets of labelled rows or images: repetitions, overlaps, labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ptune.codecs.labels import Labels
from ptune.data.label_splits import SPLITS
from ptune.data.problems import FEW
from ptune.data.shapes.label_values import Target
from ptune.doctor.finding import Finding, Place, Rule
from ptune.doctor.misspelt import FEWEST, misspelt
from ptune.doctor.sets import IMBALANCE, OVERLAP_ERROR

_NAMED = 10  # labels in a message


@dataclass(frozen=True)
class Entry:
    """A labelled row in the form for these rules."""

    content: Hashable  # equal for equal inputs
    label: Target
    place: Place


class Entries(Protocol):
    """All splits of labelled data."""

    @property
    def labels(self) -> Labels | None:
        """The labels; None if there was no row to take them from."""

    @property
    def labelled(self) -> str:
        """What has a label: "word", "step", "training example"."""

    @property
    def unit(self) -> str:
        """The unit of the data: "rows" or "images"."""

    def entries(self, split: str) -> Sequence[Entry]:
        """The rows of a split, in order."""

    def counts(self, split: str) -> Mapping[str, int]:
        """Label -> rows, words or steps."""


def one_class(sets: Entries) -> Iterator[Finding]:
    """All training examples have one label or number, or all words are outside: there is nothing to distinguish."""
    labels, train = sets.labels, sets.entries("train")
    if labels is None or labels.problem == "multi" or not train:
        return
    if labels.problem == "regression":
        if len(train) > 1 and len(numbers := {entry.label for entry in train}) == 1:
            told = f"{numbers.pop()} is the number of every training example: there is nothing to learn; add examples with others"
            yield Finding("one-class", "error", told, train[0].place)
        return
    seen = [name for name, count in sets.counts("train").items() if count]
    if len(labels) < 2 or len(seen) == 1:
        only = (seen or list(labels.names))[0]
        what = f"{'tag' if sets.labelled == 'word' else 'label'} of every {sets.labelled}"
        yield Finding(
            "one-class",
            "error",
            f"{only!r} is the {what}: there is nothing to tell apart; add examples with others",
            train[0].place,
        )


def duplicates(sets: Entries) -> Iterator[Finding]:
    """The same input twice in a split, with the same label: it weighs twice."""
    yield from _repeated(sets, "duplicates", SPLITS, same=True)


def conflicting_labels(sets: Entries) -> Iterator[Finding]:
    """The same input with different labels: the model can only learn to guess between them."""
    yield from _repeated(sets, "conflicting-labels", ("train",), same=False)


def validation_overlap(sets: Entries) -> Iterator[Finding]:
    """Validation inputs that are also in training: the validation loss is too good."""
    yield from _overlap(sets, "validation", ("train",))


def test_overlap(sets: Entries) -> Iterator[Finding]:
    """Test inputs that are also in training or validation: the final figures are too good."""
    yield from _overlap(sets, "test", ("train", "validation"))


def label_imbalance(sets: Entries) -> Iterator[Finding]:
    """A label that is far rarer than another: it is hardly learned."""
    every = sets.counts("train")
    wrong = misspelt(every)
    counts = {name: count for name, count in every.items() if count and name != "O" and name not in wrong}
    if len(counts) < 2:
        return
    common, rare = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[common] >= IMBALANCE * counts[rare]:
        yield Finding(
            "label-imbalance",
            "warning",
            f"{common!r} occurs {counts[common]:,} times, {rare!r} only {counts[rare]:,} times"
            f" ({counts[common] / counts[rare]:.0f} times fewer): add examples of the rare one, look at each label's own"
            " figures, or set --task.class-weights balanced",
        )


def misspelt_labels(sets: Entries) -> Iterator[Finding]:
    """Rare labels that differ from a frequent one by case, spaces or a letter or two: a label of its own to the model."""
    counts = sets.counts("train")
    for rare, meant in misspelt(counts).items():
        places = [
            entry.place for split in SPLITS for entry in sets.entries(split) if rare in _names(entry, sets)
        ]
        if not places:
            continue
        yield Finding(
            "misspelt-labels",
            "warning",
            f"label {rare!r} is probably {meant!r}, which has {counts[meant]:,} training examples: correct it in the file, or"
            " the model learns two labels",
            places[0],
            len(places),
            _numbers(places),
        )


def _names(entry: Entry, sets: Entries) -> tuple[str, ...]:
    """The names of an entry's labels; none of a number."""
    if sets.labels is None or sets.labels.problem == "regression":
        return ()
    marks = entry.label if isinstance(entry.label, tuple) else (entry.label,)
    return tuple(sets.labels.names[int(mark)] for mark in marks)


def _numbers(places: Sequence[Place]) -> tuple[int, ...]:
    """The numbers of the next few places in the file of the first."""
    return tuple(
        place.number for place in places[1:FEW] if place.number is not None and place.file == places[0].file
    )


def untrained_labels(sets: Entries) -> Iterator[Finding]:
    """Labels with few or no training examples, as when the recipe names one that the files lack."""
    counts = sets.counts("train")
    wrong = misspelt(counts)  # is told for itself
    few = [name for name, count in counts.items() if count < FEWEST and name not in wrong]
    if few and sum(counts.values()) > FEWEST * len(counts):
        named = ", ".join(f"{name!r} ({counts[name]})" for name in few[:_NAMED])
        more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
        yield Finding(
            "untrained-labels",
            "warning",
            f"labels with fewer than {FEWEST} training examples: {named}{more}: they will hardly be found",
            count=len(few),
        )


RULES = (
    Rule("one-class", "error", one_class),
    Rule("validation-overlap", "error", validation_overlap),
    Rule("test-overlap", "error", test_overlap),
    Rule("conflicting-labels", "warning", conflicting_labels),
    Rule("duplicates", "warning", duplicates),
    Rule("misspelt-labels", "warning", misspelt_labels),
    Rule("label-imbalance", "warning", label_imbalance),
    Rule("untrained-labels", "warning", untrained_labels),
)


def _repeated(sets: Entries, rule: str, splits: tuple[str, ...], *, same: bool) -> Iterator[Finding]:
    """Rows whose input occurs earlier in their split. same: with the same label, or with another."""
    for split in splits:
        first: dict[Hashable, Entry] = {}
        entries = sets.entries(split)
        repeated = []
        for entry in entries:
            before = first.setdefault(entry.content, entry)
            if before is not entry and (before.label == entry.label) == same:
                repeated.append((entry, before))
        if repeated:
            entry, before = repeated[0]
            what = "image" if sets.unit == "images" else "text"
            among = f"among {len(entries):,} {split} {sets.unit}"
            message = (
                f"a copy of {before.place} ({len(repeated):,} copies {among}): remove them, unless they are meant to weigh more"
                if same
                else f"the same {what} as {before.place} with another label ({len(repeated):,} such {among}): keep the right one"
            )
            yield Finding(rule, "warning", message, entry.place, len(repeated))


def _overlap(sets: Entries, split: str, others: tuple[str, ...]) -> Iterator[Finding]:
    held = sets.entries(split)
    for other in others:
        known = {entry.content: entry for entry in reversed(sets.entries(other))}
        shared = [entry for entry in held if entry.content in known]
        if shared:
            share = len(shared) / len(held)
            yield Finding(
                f"{split}-overlap",
                "error" if share >= OVERLAP_ERROR[split] else "warning",
                f"the same as {known[shared[0].content].place}, which is of {other} ({len(shared):,} of {len(held):,}"
                f" {split} {sets.unit}, {share:.1%}): remove it from one of the two",
                shared[0].place,
                len(shared),
            )
