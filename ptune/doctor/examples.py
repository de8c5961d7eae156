"""Rules on one tokenised example: its targets and its end."""

from __future__ import annotations

from ptune.doctor.finding import Rule
from ptune.doctor.rows import Row


def no_targets(row: Row) -> str | None:
    """Nothing to predict: the row costs time and teaches nothing."""
    if row.targets.find(1, 1) > 0:
        return None
    return (
        "no token is a target that follows another: the row teaches nothing; give it a prompt and an answer"
    )


def all_targets(row: Row) -> str | None:
    """Every token is a target despite a question: the chat template hides the question from the model."""
    if not row.answers_something or not row.ends:
        return None
    last, at = row.targets.rfind(1), row.targets.find(0)
    while 0 <= at < last:
        if not row.control.fullmatch(row.codec.token_text(row.example.ids[at])):
            return None
        at = row.targets.find(0, at + 1)
    return (
        "every token is a target: the chat template writes nothing of what comes before the answer, so the model"
        " would answer without having been asked; use another template (--task.template FILE)"
    )


def no_end(row: Row) -> str | None:
    """An answer whose targets lack an end-of-turn token at the end: the model does not learn to stop."""
    if not row.answers_something or not row.ends or row.ends[-1] in row.codec.eos_ids:
        return None
    return (
        f"the last target is {row.codec.token_text(row.ends[-1])!r}, not an end-of-turn token, so the model would not learn"
        " to stop: use a template that ends answers (--task.template FILE)"
    )


def open_answers(row: Row) -> str | None:
    """Earlier answers without an end-of-turn token, because the template writes none: only the last one teaches to stop."""
    open_ended = sum(token not in row.codec.eos_ids for token in row.ends[:-1])
    if not open_ended:
        return None
    return (
        f"{open_ended} of {len(row.ends)} answers end without an end-of-turn token, so they do not teach the model to stop:"
        " use a template that ends every answer (--task.template FILE)"
    )


RULES = (
    Rule("no-targets", "error", no_targets),
    Rule("all-targets", "error", all_targets),
    Rule("no-end", "error", no_end),
    Rule("open-answers", "warning", open_answers),
)
