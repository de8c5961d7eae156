"""Rules on unusable rows and files, recognised by the words of the errors of reading and encoding."""

from __future__ import annotations

from collections.abc import Container, Iterator

from ptune.data.problems import Problems
from ptune.doctor.finding import Finding, Place, Rule
from ptune.errors import DataError


def lone_surrogate(reason: str) -> bool:
    """Half of a surrogate pair: JSON can spell it (\\ud83d), but it is not a character. A text was cut inside an emoji."""
    return "surrogate" in reason


def no_answer(reason: str) -> bool:
    """A conversation without an answer to learn: no answer, no trainable answer, or no question before it."""
    return "nothing to train on" in reason


def mask_disagreement(reason: str) -> bool:
    """Two derivations of the targets that disagree: what follows the template's generation prompt, and what the template
    shows or marks with {% generation %}. Training on either would teach something that serving does not ask for."""
    return any(words in reason for words in ("contradicts itself", "cannot be located", "{% generation %}"))


def unusable_file(reason: str) -> bool:
    """A file that cannot be read, is empty, or has unknown columns."""
    return False  # recognised by the error's origin, not by its words


def unusable_row(reason: str) -> bool:
    """A row that cannot be read or encoded: broken JSON, an unknown role, a field of the wrong type, …"""
    return True


ROW_RULES = (
    Rule("lone-surrogate", "error", lone_surrogate),
    Rule("no-answer", "error", no_answer),
    Rule("mask-disagreement", "error", mask_disagreement),
    Rule("unusable-row", "error", unusable_row),
)
UNUSABLE_FILE = Rule("unusable-file", "error", unusable_file)
RULES = (*ROW_RULES, UNUSABLE_FILE)


def refusals(problems: Problems, leave_out: Container[str] = ()) -> Iterator[Finding]:
    """One finding per kind of reason; reasons that differ only in numbers and quotations are of one kind."""
    for reason, rows, count in problems.kinds(leave_out):
        yield row_refused(Place(problems.file, rows[0], problems.unit), reason, count, rows[1:])


def row_refused(place: Place, reason: str, count: int, others: tuple[int, ...] = ()) -> Finding:
    """A finding on rows that were refused for one reason. others: numbers of the next ones in the file."""
    rule = next(rule for rule in ROW_RULES if rule.check(reason))
    return Finding(rule.id, rule.severity, reason, place, count, others)


def file_refused(error: DataError) -> Finding:
    """A finding on an unusable file, or on the data as a whole."""
    place = None if error.file is None else Place(error.file, error.line)
    return Finding(UNUSABLE_FILE.id, UNUSABLE_FILE.severity, str(error).removeprefix(f"{place}: "), place)
