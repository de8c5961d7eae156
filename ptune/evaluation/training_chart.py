"""What a report says of a training: a line, and its course as HTML."""

from __future__ import annotations

from ptune.evaluation.curve import Series, chart
from ptune.evaluation.report import losses, points
from ptune.formats.run import Run, RunRecord
from ptune.progress import duration
from ptune.training.metrics_log import read


def in_a_line(record: RunRecord) -> str:
    """Base, method, steps and time."""
    took = f"{record.steps} steps in {duration(record.seconds)}"
    return f"{record.base.source}, {record.method}, {took} on {record.instruction_set}"


def training(run: Run) -> str:
    """Loss and learning rate, step by step; empty where nothing was written down."""
    entries = read(run.metrics_path) if run.metrics_path.is_file() else []
    if not entries:
        return ""
    rate = [Series("learning rate", "first", points(entries, "lr"))]
    return chart("Loss", "step", losses(entries)) + chart("Learning rate", "step", rate)
