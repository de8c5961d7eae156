"""ptune evaluate RUN|BUNDLE"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tyro.conf import Positional

from ptune.cli.parse import named_columns, parse, say_next, shown
from ptune.cli.result import tell
from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of, tasks_of
from ptune.errors import UsageError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import missed, parsed, sentence
from ptune.formats.run import Run
from ptune.formats.task_names import CHAT
from ptune.kinds import imported


def run(arguments: list[str]) -> int:
    columns, rest = named_columns(arguments)
    return parse(functools.partial(evaluate, columns=columns), rest, "evaluate")


def evaluate(
    source: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN|BUNDLE")],
    data: tuple[Path, ...] = (),
    bundle: Path | None = None,
    adapter: str | None = None,
    require: tuple[str, ...] = (),
    reward_model: Path | None = None,
    answers: int | None = None,
    out: Path | None = None,
    threads: int | None = None,
    columns: tyro.conf.Suppress[dict[str, str] | None] = None,
) -> int:
    """Measures a run on its held-out data, or an adapter of a bundle on data of yours.

    Of a classifier: metrics with 95 % intervals, baselines, slices, worst errors; from torch and, where there is a bundle,
    from ONNX beside it. Of retrieval: recall@k, MRR and NDCG. Of translation: chrF and BLEU. Of a chat run: loss, perplexity and token accuracy before and after, answers side by side.
    Writes evaluation.json, report.html and the model card into the run.
    Columns of --data with other names than a recipe's are named as there: --task.columns.text message.

    Args:
        source: A run's folder, or a bundle's.
        data: Files to judge it by; default: the run's test files, or what it was validated on.
        bundle: Of a RUN: the bundle it was exported to; default: bundles/NAME where that is there.
        adapter: Which adapter of the bundle; default: the one of the run's name, or the only one.
        require: What must be reached, as in accuracy>=0.85 or f1/LABEL>=0.5; else the exit code is 1 and RUN is not exported.
        reward_model: Of a chat RUN: a bundle with a reward model, which compares the answers to all held-out prompts.
        answers: Of a chat RUN: how many answers of both models it keeps side by side; default: as its recipe says.
        out: Of a BUNDLE: where to write; default: evaluations/BUNDLE-ADAPTER.
        threads: Threads of onnxruntime; default: all cores.
        columns: Of --task.columns.
    """
    asked = EvaluationOptions(
        data, columns or {}, bundle, adapter, parsed(require), reward_model, answers=answers, threads=threads
    )
    return _closed(*measured(source, asked, out))


def measured(
    source: Path, asked: EvaluationOptions, out: Path | None = None
) -> tuple[dict[str, Any], Path, str]:
    """The evaluation, shown; the folder that it was written to, and the command that comes next.

    out: of a bundle, where to write. Raises: UsageError for options that do not fit the source.
    """
    if asked.columns and not asked.data:
        raise UsageError("--task.columns names the columns of --data FILE, which is not given")
    if (source / "manifest.json").is_file():
        return _of_bundle(source, asked, out)
    if out is not None:
        raise UsageError("--out is for a bundle: a run's evaluation is written into the run")
    opened = Run.open(source)
    task = task_of(Recipe.load(opened.recipe_path).task)
    if asked.reward_model is not None and task.name != CHAT:
        raise UsageError(
            f"--reward-model is for chat runs, whose answers it compares; {source} is for {task.name}"
        )
    _check_answers(asked.answers, source, task.name)
    judge = imported(task.evaluate)
    found = judge(opened, asked)
    _show(found)
    return found, source, after_run(source, found, asked.bundle)


def after_run(run: Path, found: dict[str, Any], bundle: Path | None) -> str:
    """The command after a run's evaluation; one that does not refuse what the evaluation found."""
    if bundle is not None:
        return f"ptune serve {shown(bundle)}"
    return f"ptune export {shown(run)}{' --anyway' if found.get('no_better') else ''}"


def _of_bundle(source: Path, asked: EvaluationOptions, out: Path | None) -> tuple[dict[str, Any], Path, str]:
    """As `measured`. Raises: UsageError where it is not said by which data."""
    from ptune.evaluation.classification.onnx_side import the_adapter
    from ptune.formats.bundle import Bundle

    if asked.bundle is not None:
        raise UsageError(f"{source} is a bundle already: --bundle is for runs")
    _check_answers(asked.answers, source, "")
    if asked.reward_model is not None:
        raise UsageError(f"--reward-model compares the answers of a chat run, and {source} is a bundle")
    if not asked.data:
        raise UsageError(
            f"a bundle holds no data: name the files to judge it by, ptune evaluate {source} --data FILE"
        )
    record = the_adapter(Bundle.open(source), asked.adapter)
    name, judge = record.name, tasks_of(record.task)[0].evaluate_bundle
    if not judge:
        raise UsageError(
            f"the adapter {name!r} of {source} is judged with its run: its task is {record.task}"
        )
    place = out or Path("evaluations") / f"{source.resolve().name}-{name}"
    found = imported(judge)(source, place, replace(asked, adapter=name))
    _show(found)
    return found, place, f"ptune serve {shown(source)}"


def _check_answers(answers: int | None, source: Path, task: str) -> None:
    """Raises: UsageError where no answers are kept, or not so many."""
    if answers is not None and task != CHAT:
        raise UsageError(
            f"--answers is for chat runs, whose answers are shown side by side; {source} is none"
        )
    if answers is not None and answers < 0:
        raise UsageError(f"--answers {answers}: take 0 or more")


def _show(found: dict[str, Any]) -> None:
    """Prints the figures of all sides; a chat's evaluation has printed its own. In red if no baseline was beaten."""
    if "sides" in found:
        from ptune.evaluation.classification.console import show

        show(found)
    if told := found.get("no_better"):
        Console(highlight=False, soft_wrap=True).print(
            f"This model is {told}.", style="bold red", markup=False
        )


def _closed(found: dict[str, Any], folder: Path, then: str) -> int:
    """Says what was kept and missed, and what comes next; 1 where something was missed."""
    for one in found.get("requirements", []):
        print(sentence(one))
    print(f"report: {shown(folder / 'report.html')}")
    tell(folder=folder, report=folder / "report.html", evaluation=found)
    if missed(found):
        return 1
    say_next(then)
    return 0
