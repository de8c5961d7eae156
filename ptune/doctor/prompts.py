"""Examines prompts that a model is to answer and learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptune.data.shapes.prompts import SPLITS, Prompt, PromptData
from ptune.doctor import encoding, refused
from ptune.doctor.finding import Finding, Place, Rule, in_order
from ptune.doctor.histogram import bins, drawn
from ptune.doctor.show import print_findings, print_parts


def duplicate_prompt(data: PromptData) -> Iterator[Finding]:
    """The same prompt with the same columns twice in the training data: it is answered, and counts, more often than others."""
    yield from _repeated(
        "duplicate-prompt", "warning", data.train, set(), "is there already: it counts twice"
    )


def leaked_prompt(data: PromptData) -> Iterator[Finding]:
    """A held-out prompt that is trained on: its reward shows what was learnt by heart."""
    trained = {prompt.ids for prompt in data.train}
    for held in (data.validation, data.test):
        yield from _repeated(
            "leaked-prompt",
            "error" if held is data.test else "warning",
            [prompt for prompt in held if prompt.ids in trained],
            trained,
            "is among the training prompts, so what is measured on it says nothing: take it out of one of the two",
        )


SET_RULES = (
    Rule("leaked-prompt", "error", leaked_prompt),
    Rule("duplicate-prompt", "warning", duplicate_prompt),
)
RULES = (*encoding.RULES, *refused.RULES, *SET_RULES)
"""All rules for prompts."""


@dataclass(frozen=True)
class PromptExamination:
    """Prompts and the findings on them; no prompts if they could not be read."""

    data: PromptData | None
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def described(self) -> dict[str, Any]:
        """The examination in JSON types."""
        kept = {} if self.data is None else {name: self.data.summary[name] for name in SPLITS}
        files = [] if self.data is None else self.data.summary["files"]
        return {"files": files, "splits": kept, "findings": [one.described() for one in self.findings]}

    def show(self, console: Console) -> None:
        """Prints it."""
        if self.data is not None:
            print_parts((_summary(self.data), _lengths(self.data)), console)
        print_findings(self.findings, console)


def examined(data: PromptData, paths: Sequence[Path]) -> PromptExamination:
    """The findings on prompts that were read from these files."""
    of_files = [finding for path in dict.fromkeys(paths) for finding in encoding.of_file(path)]
    of_sets = [finding for rule in SET_RULES for finding in rule.check(data)]
    return PromptExamination(data, in_order([*of_files, *of_sets], RULES))


def _repeated(
    rule: str, severity: Any, prompts: Sequence[Prompt], known: set[tuple[int, ...]], what: str
) -> Iterator[Finding]:
    """One finding on all prompts that occur more than once, or are among `known`."""
    counts = Counter((prompt.ids, str(prompt.asked.columns)) for prompt in prompts)
    seen: set[tuple[tuple[int, ...], str]] = set()
    found = []
    for prompt in prompts:
        key = (prompt.ids, str(prompt.asked.columns))
        if prompt.ids in known or (counts[key] > 1 and key in seen):
            found.append(prompt)
        seen.add(key)
    if found:
        first = found[0]
        file, _, number = first.place.rpartition(", ")
        unit, _, row = number.partition(" ")
        question = " ".join(first.asked.question.split())[:60]
        yield Finding(
            rule, severity, f"the prompt {question!r} {what}", Place(file, int(row), unit), len(found)
        )


def _summary(data: PromptData) -> Iterator[Text]:
    names = ("rows", "examples", "tokens", "overlong")
    yield Text(f"{'':<11}" + "".join(f"{name:>11}" for name in names), style="bold")
    for split in SPLITS:
        if data.summary[split]["rows"]:
            yield Text(f"{split:<11}" + "".join(f"{data.summary[split][name]:>11,}" for name in names))


def _lengths(data: PromptData) -> Iterator[Text]:
    limit = data.summary["longest_tokens"]
    yield Text("tokens of a training prompt, and how many have so many", style="bold")
    yield from map(Text, drawn(bins(Counter(map(len, data.train)), limit), limit, "longest allowed"))
