"""Examines rows of anchors, positives and negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Data
from ptune.config.retrieval import Embedding, Reranking
from ptune.data.examples.pairs import PairData, encoded_pairs
from ptune.data.shapes.pairs import Pair, PairSplits, read_pair_splits
from ptune.doctor import encoding, labels, refused
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, in_order
from ptune.doctor.labels import Entry
from ptune.errors import DataError

_COMMON = 0.2  # largest share of rows that may have the same positive
_FEW = 10  # too few rows to judge shares


@dataclass(frozen=True)
class PairSets:
    """All splits as read; `data`: encoded, if possible. See `ptune.doctor.labels.Entries`."""

    splits: PairSplits
    data: PairData | None
    unit = "rows"
    labelled = "training example"

    @property
    def labels(self) -> Labels | None:
        return None

    def entries(self, split: str) -> list[Entry]:
        """The rows of a split; rows with equal anchor and positive are equal."""
        return [Entry((row.anchor, row.positive), 0, _place(row)) for row in self.splits.rows[split]]

    def counts(self, split: str) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True)
class _Anchors(PairSets):
    """Rows with equal anchors are equal: a trained question is not a test, whatever its answer."""

    def entries(self, split: str) -> list[Entry]:
        return [Entry(row.anchor, 0, _place(row)) for row in self.splits.rows[split]]


def identical_pair(sets: PairSets) -> Iterator[Finding]:
    """Anchor and positive are the same text: the row only teaches to copy."""
    yield from _rows_where(
        sets,
        "identical-pair",
        "error",
        lambda row: _plain(row.anchor) == _plain(row.positive),
        "anchor and positive are the same text: remove the row",
    )


def wrong_negative(sets: PairSets) -> Iterator[Finding]:
    """A negative that is the row's positive, or its anchor: the row contradicts itself."""
    yield from _rows_where(
        sets,
        "wrong-negative",
        "error",
        lambda row: {_plain(text) for text in row.negatives} & {_plain(row.positive), _plain(row.anchor)},
        "a negative is the same text as the positive or the anchor: remove it",
    )


def contradicted_negative(sets: PairSets) -> Iterator[Finding]:
    """A negative that is right for the same anchor in another row."""
    right: dict[str, set[str]] = {}
    for row in sets.splits.rows["train"]:
        right.setdefault(row.anchor, set()).add(row.positive)
    yield from _rows_where(
        sets,
        "contradicted-negative",
        "warning",
        lambda row: set(row.negatives) & (right.get(row.anchor, set()) - {row.positive}),
        "a negative is the positive of the same anchor in another row: one of the two is wrong",
        splits=("train",),
    )


def one_passage(sets: PairSets) -> Iterator[Finding]:
    """All rows have the same positive: there is nothing to distinguish."""
    train = sets.splits.rows["train"]
    if len(train) > 1 and len({row.positive for row in train}) == 1:
        yield Finding(
            "one-passage",
            "error",
            f"all {len(train):,} training rows have the same positive: there is nothing to tell apart",
            _place(train[0]),
        )


def common_passage(sets: PairSets) -> Iterator[Finding]:
    """A positive of very many anchors: it will be near everything."""
    train = sets.splits.rows["train"]
    counts = Counter(row.positive for row in train)
    if len(train) < _FEW or len(counts) < 2:
        return
    text, count = counts.most_common(1)[0]
    if count >= _COMMON * len(train):
        first = next(row for row in train if row.positive == text)
        yield Finding(
            "common-passage",
            "warning",
            f"its positive is that of {count:,} of {len(train):,} training rows: it will be near everything",
            _place(first),
            count,
        )


def duplicates(sets: PairSets) -> Iterator[Finding]:
    """The same anchor and positive twice in a split: the pair weighs twice."""
    yield from labels.duplicates(sets)


def validation_overlap(sets: PairSets) -> Iterator[Finding]:
    """Validation anchors that are also in training: the validation loss is too good."""
    yield from labels.validation_overlap(_Anchors(sets.splits, sets.data))


def test_overlap(sets: PairSets) -> Iterator[Finding]:
    """Test anchors that are also in training or validation: the final figures are too good."""
    yield from labels.test_overlap(_Anchors(sets.splits, sets.data))


def over_long(sets: PairSets) -> Iterator[Finding]:
    """Texts over the length limit, and the effect of `task.on_overlong` on their rows."""
    for name, split in () if sets.data is None else sets.data.splits.items():
        if split.overlong:
            assert sets.data is not None
            what = f"{split.left_out:,} left out" if split.left_out else "the ends are cut off"
            yield Finding(
                "over-long",
                "warning",
                f"{split.overlong:,} of {split.lengths.total():,} {name} rows have a text longer than"
                f" {sets.data.summary['longest_tokens']} tokens (the longest, {split.longest[1]}, has {split.longest[0]:,}):"
                f" {what}; --task.max-length allows more, up to the model's context",
                count=split.overlong,
            )


SET_RULES = (
    Rule("identical-pair", "error", identical_pair),
    Rule("wrong-negative", "error", wrong_negative),
    Rule("one-passage", "error", one_passage),
    Rule("validation-overlap", "error", validation_overlap),
    Rule("test-overlap", "error", test_overlap),
    Rule("contradicted-negative", "warning", contradicted_negative),
    Rule("common-passage", "warning", common_passage),
    Rule("duplicates", "warning", duplicates),
    Rule("over-long", "error", over_long),
)
FILE_RULES = (*encoding.RULES, *refused.RULES)
RULES = (*FILE_RULES, *SET_RULES)
"""Every kind of defect that is looked for in pairs of texts."""


@dataclass(frozen=True)
class PairExamination:
    """The data that was read, and all findings on it."""

    sets: PairSets
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def examine_pairs(
    data: Data, task: Embedding | Reranking, codec: SequenceCodec, seed: int
) -> PairExamination:
    """Reads all data of a recipe and returns every finding; trains nothing. A reranker's texts are cut in pairs: none is
    encoded.

    Raises: DataError if the recipe names no files.
    """
    splits = read_pair_splits(data, seed, task.columns)
    findings = of_files(data, splits)
    encodes: PairData | None = None
    if isinstance(task, Embedding) and splits.rows["train"]:
        try:
            encodes = encoded_pairs(splits, data, task, codec)
        except DataError as error:
            findings.append(Finding("over-long", "error", str(error)))
    sets = PairSets(splits, encodes)
    return PairExamination(sets, in_order([*findings, *of_sets(sets)], RULES))


def of_files(data: Data, splits: PairSplits) -> list[Finding]:
    """Findings on the files of a recipe, and on rows that cannot be used."""
    return [
        *of_bytes((*data.files, *data.validation, *data.test)),
        *map(refused.file_refused, splits.errors),
        *(found for _, file in splits.files for found in refused.refusals(file.problems)),
    ]


def of_sets(sets: PairSets) -> list[Finding]:
    """Findings on the rows as a whole, errors first."""
    return in_order([finding for rule in SET_RULES for finding in rule.check(sets)], RULES)


def judged(splits: PairSplits, data: PairData | None, command: str) -> list[dict[str, Any]]:
    """Returns the findings on usable data, in JSON types; prints the number of warnings.

    Raises: DataError if the data would train a wrong model.
    """
    paths = [file.file.path for _, file in splits.files]
    findings = [*of_bytes(paths), *of_sets(PairSets(splits, data))]
    judge(findings, command)
    return [finding.described() for finding in findings]


def of_bytes(paths: Sequence[Path]) -> Iterator[Finding]:
    """Findings on the bytes of files."""
    for path in dict.fromkeys(paths):
        yield from encoding.of_file(path)


def _rows_where(
    sets: PairSets,
    rule: str,
    severity: Any,
    wrong: Callable[[Pair], object],
    message: str,
    splits: Sequence[str] = ("train", "validation", "test"),
) -> Iterator[Finding]:
    """One finding on all rows for which `wrong` is true."""
    matching = [row for split in splits for row in sets.splits.rows[split] if wrong(row)]
    if matching:
        more = f" ({len(matching):,} such rows)" if len(matching) > 1 else ""
        yield Finding(rule, severity, message + more, _place(matching[0]), len(matching))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _place(row: Pair) -> Place:
    return Place(row.file.name, row.number, row.file.problems.unit)
