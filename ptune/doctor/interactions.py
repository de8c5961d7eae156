"""Examines interactions: rows of users and items, and the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.data.examples.pairs import PairData, encoded_pairs
from ptune.data.shapes.interactions import Interaction, Interactions, read_interactions
from ptune.doctor import encoding, pairs, refused
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, Severity, in_order
from ptune.doctor.pairs import PairExamination, PairSets
from ptune.errors import DataError


def unknown_item(interactions: Interactions) -> Iterator[Finding]:
    """An item that the catalogue lacks: it has no title to embed."""
    yield from _first(
        "unknown-item",
        "error",
        interactions.unknown,
        lambda row: f"item {row.item!r} is not in the catalogue (--task.items)",
    )


def missing_title(interactions: Interactions) -> Iterator[Finding]:
    """An item of the catalogue without a title: its name is used, which may mean nothing."""
    for item, file, number in interactions.untitled[:1]:
        yield Finding(
            "missing-title",
            "warning",
            f"item {item!r} has no title: its name stands for it",
            Place(file.name, number, file.problems.unit),
            len(interactions.untitled),
        )


def no_pairs(interactions: Interactions) -> Iterator[Finding]:
    """No user has two items to train on: nothing shows which items belong together."""
    if interactions.rows and not any(len(history.train) > 1 for history in interactions.histories):
        yield Finding(
            "no-pairs",
            "error",
            f"none of {len(interactions.histories):,} users has 4 items or more: one is held out for the test, one to validate, and"
            " two must be left to learn from",
            _place(interactions.rows[0]),
        )


def single_item(interactions: Interactions) -> Iterator[Finding]:
    """A user with one item, who contributes nothing to training or evaluation."""
    single = [history.kept[0] for history in interactions.histories if len(history.kept) == 1]
    yield from _first(
        "single-item",
        "warning",
        single,
        lambda row: f"user {row.user!r} has one item only: nothing is learnt of it",
    )


def duplicate_pair(interactions: Interactions) -> Iterator[Finding]:
    """The same user and item twice: the pair counts once."""
    yield from _first(
        "duplicate-pair",
        "warning",
        interactions.repeated,
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
"""All rules for interactions."""


def examine_interactions(recipe: Recipe, codec: SequenceCodec) -> PairExamination:
    """Reads all data of a recipe and returns every finding; trains nothing.

    Raises: DataError if the recipe names no files.
    """
    task = recipe.task
    assert isinstance(task, Recommendation)
    interactions = read_interactions(recipe)
    findings = [*_of_bytes((task.items, *recipe.data.files)), *map(refused.file_refused, interactions.errors)]
    findings += [finding for _, file in interactions.files for finding in refused.refusals(file.problems)]
    findings += of_sets(interactions)
    splits, encoded = interactions.pairs(recipe.data.limit), None
    if splits.rows["train"] and not any(finding.severity == "error" for finding in findings):
        encoded, more = _encoded(recipe, task, codec, interactions)
        findings += more
    return PairExamination(PairSets(splits, encoded), in_order(findings, RULES))


def _encoded(
    recipe: Recipe, task: Recommendation, codec: SequenceCodec, interactions: Interactions
) -> tuple[PairData | None, list[Finding]]:
    splits = interactions.pairs(recipe.data.limit)
    try:
        data = encoded_pairs(splits, recipe.data, task, codec)
    except DataError as error:
        return None, [Finding("over-long", "error", str(error))]
    return data, list(pairs.over_long(PairSets(splits, data)))


def of_sets(interactions: Interactions) -> list[Finding]:
    """Findings on the rows as a whole, errors first."""
    return in_order([finding for rule in SET_RULES for finding in rule.check(interactions)], RULES)


def judged(interactions: Interactions, command: str) -> list[dict[str, Any]]:
    """Returns the findings on readable data, in JSON types; prints the number of warnings.

    Raises: DataError if the data would train a wrong model.
    """
    findings = [*_of_bytes([file.file.path for _, file in interactions.files]), *of_sets(interactions)]
    judge(findings, command)
    return [finding.described() for finding in findings]


def _of_bytes(paths: Sequence[Path]) -> Iterator[Finding]:
    for path in dict.fromkeys(paths):
        yield from encoding.of_file(path)


def _first(rule: str, severity: Severity, rows: Sequence[Interaction], message: Any) -> Iterator[Finding]:
    """One finding on all rows, at the first of them."""
    if rows:
        yield Finding(rule, severity, message(rows[0]), _place(rows[0]), len(rows))


def _place(row: Interaction) -> Place:
    return Place(row.file.name, row.number, row.file.problems.unit)
