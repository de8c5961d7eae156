"""ptune evaluate RUN"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import parse, say_next, shown


def run(arguments: list[str]) -> int:
    return parse(evaluate, arguments, "evaluate")


def evaluate(run: Positional[Path]) -> int:
    """Measures a run on its held-out data: loss, perplexity and token accuracy before and after, answers side by side.

    Writes evaluation.json, report.html and the model card into the run.

    Args:
        run: The run's folder.
    """
    from ptune.evaluation.evaluate import evaluate as evaluate_run
    from ptune.formats.run import Run

    evaluate_run(Run.open(run))
    print(f"report: {shown(run / 'report.html')}")
    say_next(f"ptune export {shown(run)}")
    return 0
