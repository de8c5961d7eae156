"""Examines pairs of answers that train a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ptune.config.recipe import Data
from ptune.config.reward_model import RewardModel
from ptune.data.shapes.pairs import PairSplits
from ptune.data.shapes.rewards import RewardPair, read_reward_splits, reward_rows
from ptune.doctor import pairs
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, in_order
from ptune.doctor.pairs import PairExamination, PairSets
from ptune.doctor.preferences import FEWEST_PAIRS, LONGER


def equal_answers(sets: PairSets) -> Iterator[Finding]:
    """Two answers that are the same: there is nothing to prefer, and no loss could fall."""
    equal = [
        row
        for split in sets.splits.rows
        for row in reward_rows(sets.splits, split)
        if row.answers[0] == row.answers[1]
    ]
    if equal:
        first = equal[0]
        yield Finding(
            "equal-answers",
            "error",
            "chosen and rejected are the same answer: remove the row"
            + (f" ({len(equal):,} such rows)" if len(equal) > 1 else ""),
            Place(first.file.name, first.number, first.file.problems.unit),
            len(equal),
        )


def one_length_wins(sets: PairSets) -> Iterator[Finding]:
    """The better answer is nearly always the longer one, or the shorter: the length alone may be learnt."""
    rows = reward_rows(sets.splits, "train")
    lengths = [[len(answer) for answer in row.answers] for row in rows]
    for word, count in (
        ("longer", sum(better > worse for better, worse in lengths)),
        ("shorter", sum(better < worse for better, worse in lengths)),
    ):
        if len(rows) >= FEWEST_PAIRS and count >= LONGER * len(rows):
            yield Finding(
                "one-length-wins",
                "warning",
                f"the better answer is the {word} one in {count / len(rows):.0%} of the training pairs: add pairs where it"
                " is not, or the length is what earns a reward",
                None,
                count,
            )


def duplicates(sets: PairSets) -> Iterator[Finding]:
    """The same prompt with the same two answers twice in a split: it weighs twice."""
    for split in sets.splits.rows:
        first: dict[tuple[str, tuple[str, str]], str] = {}
        copies = []
        for row in reward_rows(sets.splits, split):
            earlier = first.setdefault((row.anchor, row.answers), row.place)
            copies += [(row, earlier)] if earlier != row.place else []
        if copies:
            row, earlier = copies[0]
            yield Finding(
                "duplicates",
                "warning",
                f"a copy of {earlier} ({len(copies):,} copies among {len(sets.splits.rows[split]):,} {split} pairs): remove"
                " them, unless they are meant to weigh more",
                Place(row.file.name, row.number, row.file.problems.unit),
                len(copies),
            )


def contradicting_pairs(sets: PairSets) -> Iterator[Finding]:
    """The same two answers to the same prompt with one and then the other as the better one: the two cancel out."""
    for split in sets.splits.rows:
        first: dict[tuple[str, frozenset[str]], RewardPair] = {}
        turned = []
        for row in reward_rows(sets.splits, split):
            earlier = first.setdefault((row.anchor, frozenset(row.answers)), row)
            turned += [(row, earlier)] if earlier.answers != row.answers else []
        if turned:
            row, earlier = turned[0]
            yield Finding(
                "contradicting-pairs",
                "warning",
                f"the answers of {earlier.place} with the other one as the better ({len(turned):,} such among"
                f" {len(sets.splits.rows[split]):,} {split} pairs): keep the pair that is right",
                Place(row.file.name, row.number, row.file.problems.unit),
                len(turned),
            )


SET_RULES = (
    Rule("equal-answers", "error", equal_answers),
    Rule("validation-overlap", "error", pairs.validation_overlap),
    Rule("test-overlap", "error", pairs.test_overlap),
    Rule("contradicting-pairs", "warning", contradicting_pairs),
    Rule("one-length-wins", "warning", one_length_wins),
    Rule("duplicates", "warning", duplicates),
)
RULES = (*pairs.FILE_RULES, *SET_RULES)
"""Every kind of defect that is looked for in pairs of answers to a reward model."""


def examine_rewards(data: Data, task: RewardModel, seed: int) -> PairExamination:
    """Reads all data of a recipe and returns every finding; trains nothing. Raises: DataError if the recipe names no files."""
    splits = read_reward_splits(data, seed, task.columns)
    sets = PairSets(splits, None)
    return PairExamination(sets, in_order([*pairs.of_files(data, splits), *_of_sets(sets)], RULES))


def judged(splits: PairSplits, command: str) -> list[dict[str, Any]]:
    """Returns the findings on usable data, in JSON types; prints the number of warnings.

    Raises: DataError if the data would train a wrong model.
    """
    paths = [file.file.path for _, file in splits.files]
    findings = [*pairs.of_bytes(paths), *_of_sets(PairSets(splits, None))]
    judge(findings, command)
    return [finding.described() for finding in findings]


def _of_sets(sets: PairSets) -> list[Finding]:
    return in_order([finding for rule in SET_RULES for finding in rule.check(sets)], RULES)
