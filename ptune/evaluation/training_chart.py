"""The training in a report: a summary line, and its course as HTML."""

from __future__ import annotations

from ptune.evaluation.classification.evaluation import Pages
from ptune.evaluation.curve import Series, chart
from ptune.evaluation.report import losses, origin, points, troubles
from ptune.evaluation.sampled import TITLE, sampled
from ptune.formats.run import Run, RunRecord
from ptune.progress import duration
from ptune.training.journal.metrics_log import read


def in_a_line(record: RunRecord) -> str:
    """A line with base, method, steps and time."""
    took = f"{record.steps} steps in {duration(record.seconds)}"
    return f"{record.base.source}, {record.method}, {took} on {record.instruction_set}"


def training(run: Run) -> str:
    """Charts of loss and learning rate by step, and what a model that writes text answered; empty if nothing was recorded."""
    entries = read(run.metrics_path) if run.metrics_path.is_file() else []
    if not entries:
        return ""
    rate = [Series("learning rate", "first", points(entries, "lr"))]
    told = troubles(run.record()) if run.record_path.is_file() else ""
    answered = sampled(run.samples())
    charts = chart("Loss", "step", losses(entries)) + chart("Learning rate", "step", rate)
    return told + charts + (f"<h2>{TITLE}</h2>{answered}" if answered else "")


def pages_of(run: Run, record: RunRecord, name: str, counted: str = "rows") -> Pages:
    """What a run says in its report. counted: what its hops were measured over."""
    return Pages(name, in_a_line(record), training(run), origin(record, counted))
