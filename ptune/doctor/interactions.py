"""Examines who had what: rows of users and items, and the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.data.interactions import Interaction, Interactions, read_interactions
from ptune.data.pair_examples import PairData, encoded_pairs
from ptune.doctor import encoding, pairs, refused
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, Severity, in_order
from ptune.doctor.pairs import PairExamination, PairSets
from ptune.errors import DataError


def unknown_item(found: Interactions) -> Iterator[Finding]:
    """An item that the catalogue lacks: it has no title to be known by."""
    yield from _first(
        "unknown-item",
        "error",
        found.unknown,
        lambda row: f"item {row.item!r} is not in the catalogue (--task.items)",
    )


def missing_title(found: Interactions) -> Iterator[Finding]:
    """An item of the catalogue without a title: it is known by its name alone, which may mean nothing."""
    for item, file, number in found.untitled[:1]:
        yield Finding(
            "missing-title",
            "warning",
            f"item {item!r} has no title: its name stands for it",
            Place(file.name, number, file.problems.unit),
            len(found.untitled),
        )


def no_pairs(found: Interactions) -> Iterator[Finding]:
    """No user has two items left to train on: there is nothing to learn what belongs together from."""
    if found.rows and not any(len(history.train) > 1 for history in found.histories):
        yield Finding(
            "no-pairs",
            "error",
            f"none of {len(found.histories):,} users has 4 items or more: one is held out for the test, one to validate, and"
            " two must be left to learn from",
            _place(found.rows[0]),
        )


def single_item(found: Interactions) -> Iterator[Finding]:
    """A user with one item: nothing is learnt or measured by it."""
    single = [history.kept[0] for history in found.histories if len(history.kept) == 1]
    yield from _first(
        "single-item",
        "warning",
        single,
        lambda row: f"user {row.user!r} has one item only: nothing is learnt of it",
    )


def duplicate_pair(found: Interactions) -> Iterator[Finding]:
    """The same user and item twice: it counts once."""
    yield from _first(
        "duplicate-pair",
        "warning",
        found.repeated,
        lambda row: f"user {row.user!r} has item {row.item!r} already: it counts once",
    )


SET_RULES = (
    Rule("unknown-item", "error", unknown_item),
    Rule("no-pairs", "error", no_pairs),
    Rule("missing-title", "warning", missing_title),
    Rule("single-item", "warning", single_item),
    Rule("duplicate-pair", "warning", duplicate_pair),
)
RULES = (*encoding.RULES, *refused.RULES, *SET_RULES, Rule("over-long", "error", pairs.over_long))
"""Every kind of defect that is looked for in interactions."""


def examine_interactions(recipe: Recipe, codec: SequenceCodec) -> PairExamination:
    """Reads all of a recipe's data and tells all that is wrong with it; trains nothing.

    Raises: DataError where the recipe names no files.
    """
    task = recipe.task
    assert isinstance(task, Recommendation)
    found = read_interactions(recipe)
    findings = [*_of_bytes((task.items, *recipe.data.files)), *map(refused.file_refused, found.errors)]
    findings += [finding for _, file in found.files for finding in refused.refusals(file.problems)]
    findings += of_sets(found)
    splits, encoded = found.pairs(recipe.data.limit), None
    if splits.rows["train"] and not any(finding.severity == "error" for finding in findings):
        encoded, more = _encoded(recipe, task, codec, found)
        findings += more
    return PairExamination(PairSets(splits, encoded), in_order(findings, RULES))


def _encoded(
    recipe: Recipe, task: Recommendation, codec: SequenceCodec, found: Interactions
) -> tuple[PairData | None, list[Finding]]:
    splits = found.pairs(recipe.data.limit)
    try:
        data = encoded_pairs(splits, recipe.data, task, codec)
    except DataError as error:
        return None, [Finding("over-long", "error", str(error))]
    return data, list(pairs.over_long(PairSets(splits, data)))


def of_sets(found: Interactions) -> list[Finding]:
    """What is wrong with the rows as a whole, errors first."""
    return in_order([finding for rule in SET_RULES for finding in rule.check(found)], RULES)


def judged(found: Interactions, command: str) -> list[dict[str, Any]]:
    """The findings on data that can be read, in JSON types; says how many warnings there are.

    Raises: DataError where the data would train a wrong model.
    """
    findings = [*_of_bytes([file.file.path for _, file in found.files]), *of_sets(found)]
    judge(findings, command)
    return [finding.described() for finding in findings]


def _of_bytes(paths: Sequence[Path]) -> Iterator[Finding]:
    for path in dict.fromkeys(paths):
        yield from encoding.of_file(path)


def _first(rule: str, severity: Severity, rows: Sequence[Interaction], message: Any) -> Iterator[Finding]:
    """One finding of all rows, at the first of them."""
    if rows:
        yield Finding(rule, severity, message(rows[0]), _place(rows[0]), len(rows))


def _place(row: Interaction) -> Place:
    return Place(row.file.name, row.number, row.file.problems.unit)
