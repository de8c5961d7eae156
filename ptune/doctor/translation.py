"""Rules on pairs of source and target, beside those on any conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptune.config.chat import Chat
from ptune.config.translation import Translation, language
from ptune.data.shapes.conversations import Conversation
from ptune.doctor.finding import Rule
from ptune.doctor.rows import Row

# How often they are right: python -m benchmarks.languages
FEWEST_LETTERS = 30  # of a text, to examine its language
MARGIN = 20.0  # in log-likelihood, by which another language must be likelier
LONGEST_RATIO = 6.0  # of the sides, in bytes of UTF-8, which carry about equal information in every script
FEWEST_BYTES = 60  # of the longer side, to compare lengths
REPLACED = frozenset({"role-order", "empty-answer", "empty-question"})
"""Rules of conversations that are said in other words here, or cannot be broken."""


def sides(row: Row) -> tuple[str, str]:
    """Source and target."""
    conversation = row.sample.conversation
    assert isinstance(conversation, Conversation)
    return conversation.question, conversation.answer


def empty_side(row: Row) -> str | None:
    """A side without text: the model would learn to answer with nothing, or to make something up."""
    for name, text in zip(("source", "target"), sides(row), strict=True):
        if not text.strip():
            return f"the {name} is empty: fill it or remove the row"
    return None


def identical_sides(row: Row) -> str | None:
    """A target equal to its source: right for a name, else untranslated, and teaches to copy."""
    source, target = (" ".join(text.split()) for text in sides(row))
    if source and source == target:
        return f"source and target are the same, {source[:60]!r}: remove the row, unless it is a name or the like"
    return None


def length_ratio(row: Row) -> str | None:
    """A side many times longer than the other: mostly a translation of something else, or a truncated one."""
    source, target = (len(text.strip().encode()) for text in sides(row))
    if min(source, target) and max(source, target) >= FEWEST_BYTES:
        times = max(source, target) / min(source, target)
        if times > LONGEST_RATIO:
            return (
                f"one side is {times:.0f} times as long as the other ({source} and {target} bytes): check that they belong"
                " together"
            )
    return None


RULES = (
    Rule("empty-side", "error", empty_side),
    Rule("identical-sides", "warning", identical_sides),
    Rule("length-ratio", "warning", length_ratio),
)


@dataclass(frozen=True)
class WrongLanguage:
    """A text in another language than the recipe's: swapped columns, or an untranslated row.

    Uses py3langid, a naive Bayes classifier of 4.5 MB that needs no network. Skips texts of few letters, and all texts
    if the recipe names no language, or one that py3langid does not know.
    """

    languages: tuple[str | None, str | None]
    rank: Callable[[str], list[tuple[str, float]]]

    def __call__(self, row: Row) -> str | None:
        """The message for a row, if it has the defect."""
        for name, text, expected in zip(("source", "target"), sides(row), self.languages, strict=True):
            actual = None if expected is None else self.other_than(expected, text)
            if actual is not None:
                return (
                    f"the {name} looks like {language(actual)}, not {language(expected)}: {text[:60]!r}; correct the row, or"
                    " the recipe's source, target and languages"
                )
        return None

    def other_than(self, expected: str, text: str) -> str | None:
        """The language that a text is clearly in, if not the expected one."""
        if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
            return None
        ranked = self.rank(text)
        (likeliest, best), scores = ranked[0], dict(ranked)
        return likeliest if expected in scores and best - scores[expected] > MARGIN else None


def rules_of(task: Chat, row_rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules for a task's rows: `row_rules`; for translations, those above replace some of them."""
    if not isinstance(task, Translation):
        return row_rules
    return (*(rule for rule in row_rules if rule.id not in REPLACED), *RULES, wrong_language(task))


def wrong_language(task: Translation) -> Rule:
    """The rule for a recipe's languages."""
    return Rule("wrong-language", "warning", WrongLanguage(_codes(task), _rank))


def _codes(task: Translation) -> tuple[str | None, str | None]:
    codes = (task.source_language, task.target_language)
    source, target = (None if code is None else code.partition("-")[0].casefold() for code in codes)
    return source, target


def _rank(text: str) -> Any:
    import py3langid

    return py3langid.rank(text)
