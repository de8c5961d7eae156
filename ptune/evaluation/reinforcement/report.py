"""report.html of a reinforcement run: one self-contained file."""

from __future__ import annotations

from typing import Any

from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.evaluation.curve import Series, chart
from ptune.evaluation.reinforcement.titles import cell, title
from ptune.evaluation.report import each_step, origin, points, troubles
from ptune.evaluation.sampled import TITLE, sampled
from ptune.evaluation.style import kept_step, no_better, page, text
from ptune.formats.run import RunRecord
from ptune.progress import duration


def report(
    record: RunRecord,
    recipe: Recipe,
    evaluation: dict[str, Any],
    metrics: list[dict[str, Any]],
    samples: list[dict[str, Any]],
) -> str:
    """Renders the page. It loads nothing and runs no script. samples: see `Run.samples`."""
    task = recipe.task
    assert isinstance(task, Reinforcement)
    sections = [
        f"<h1>{text(recipe.name)}</h1>",
        f"<p class=dim>{text(record.base.source)}, {text(record.method)}, {text(task.loss)}, {record.steps} steps in "
        f"{duration(record.seconds)} on {text(record.instruction_set)}</p>",
        kept_step(evaluation),
        no_better(evaluation),
        "<h2>Before and after</h2>",
        _figures(evaluation),
        "<h2>Training</h2>",
        troubles(record),
        chart("Reward of the sampled answers", "step", rewards(metrics)),
        *_pairs(metrics),
        *_ratios(task, metrics),
        *_certificate(task, metrics),
        chart("Tokens of an answer", "step", [Series("mean", "first", points(metrics, "answer_tokens"))]),
        chart("Learning rate", "step", [Series("learning rate", "first", points(metrics, "lr"))]),
        *([f"<h2>{TITLE}</h2>", sampled(samples)] if samples else []),
        *(["<h2>Answers</h2>"] if evaluation["answers"] else []),
        *map(_answer, evaluation["answers"]),
        "<h2>Where it comes from</h2>",
        origin(record),
    ]
    return page(recipe.name, sections)


def rewards(metrics: list[dict[str, Any]]) -> list[Series]:
    """The lines of the reward chart: each step with a moving average, and the validations' greedy answers."""
    held = [(step, -loss) for step, loss in points(metrics, "validation_loss")]
    return [*each_step(points(metrics, "reward")), Series("validation, greedy", "second", held, marks=True)]


def _pairs(metrics: list[dict[str, Any]]) -> list[str]:
    """How the answers of pairs stood to each other before their step, where pairs are compared."""
    accuracy = points(metrics, "accuracy")
    if not accuracy:
        return []
    return [
        chart("Pairs whose better answer gained more", "step", each_step(accuracy)),
        chart("Margin of the better answer", "step", each_step(points(metrics, "margin"))),
    ]


def _ratios(task: Reinforcement, metrics: list[dict[str, Any]]) -> list[str]:
    """How far later updates had gone from the model that answered, where there are any."""
    ratios = points(metrics, "ratio")
    if not ratios:
        return []
    what = "tokens" if task.facts.ratio == "token" else "answers"
    clipped = each_step(points(metrics, "clipped"))
    return [
        chart(f"How much likelier {what} had become since they were sampled", "step", each_step(ratios)),
        chart("Share that was clipped", "step", clipped),
    ]


def _certificate(task: Reinforcement, metrics: list[dict[str, Any]]) -> list[str]:
    """The drift of every batch of answers, and its largest beside the limit."""
    drifts = points(metrics, "drift")
    if not drifts:
        return []
    most = max(value for _, value in drifts)
    learnt = (
        f"that {len(drifts)} steps learnt from"
        if task.updates == 1
        else f"of {len(drifts)} batches of answers, from each of which {task.updates} steps learnt,"
    )
    told = (
        f"Every token {learnt} had, in training, the log-probability with which the engine had sampled it,"
        f" within {most:.1e} (limit {task.drift_limit:g}): the answers were the trained model's own."
    )
    return [
        f"<p>{text(told)}</p>",
        chart("Largest |Δ log p| of a sampled token", "step", [Series("drift", "first", drifts)]),
    ]


def _figures(evaluation: dict[str, Any]) -> str:
    found = evaluation["rewards"]
    rows = [
        f"<tr><th>{text(title(name))}</th><td class=number>{cell(found['base'].get(name))}</td>"
        f"<td class=number>{cell(found['tuned'][name])}</td></tr>"
        for name in found["tuned"]
    ]
    heads = "<th></th><th class=number>base</th><th class=number>tuned</th>"
    note = f"{evaluation['examples']} prompts ({evaluation['split']}), means with 95 % intervals"
    return f"<p class=dim>{note}</p><div class=scroll><table><tr>{heads}</tr>{''.join(rows)}</table></div>"


def _answer(answer: dict[str, Any]) -> str:
    sides = zip(("base", "tuned"), (answer["base"], answer["adapter"]), answer["rewards"], strict=True)
    columns = "".join(
        f"<div><h3>{name}, reward {reward:.3g}</h3><p>{text(answered)}</p></div>"
        for name, answered, reward in sides
    )
    return f"<article><p>{text(answer['prompt'])}</p><div class=sides>{columns}</div></article>"
