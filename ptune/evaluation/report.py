"""report.html of a chat run: one self-contained file."""

from __future__ import annotations

from typing import Any

from ptune.config.recipe import Recipe
from ptune.evaluation import judged_titles
from ptune.evaluation.curve import Series, averaged, chart
from ptune.evaluation.pair_titles import cell, titles
from ptune.evaluation.sampled import TITLE, sampled
from ptune.evaluation.style import kept_step, no_better, page, text
from ptune.evaluation.win_rate import sentence
from ptune.formats.run import RunRecord
from ptune.progress import duration

ENOUGH = 10  # fewer points are not averaged
LEAST, PARTS = 5, 25  # an average covers a 25th of the points, at least 5


def report(
    record: RunRecord,
    recipe: Recipe,
    evaluation: dict[str, Any],
    metrics: list[dict[str, Any]],
    samples: list[dict[str, Any]],
) -> str:
    """Renders the page. It loads nothing and runs no script. samples: see `Run.samples`."""
    sections = [
        f"<h1>{text(recipe.name)}</h1>",
        f"<p class=dim>{text(record.base.source)}, {text(record.method)}, {record.steps} steps in "
        f"{duration(record.seconds)} on {text(record.instruction_set)}</p>",
        kept_step(evaluation),
        no_better(evaluation),
        "<h2>Before and after</h2>",
        _figures(evaluation),
        *([_pairs(evaluation["pairs"])] if "pairs" in evaluation else []),
        *([_judged(evaluation["judged"])] if "judged" in evaluation else []),
        "<h2>Training</h2>",
        troubles(record),
        chart(_loss_title(evaluation), "step", losses(metrics)),
        chart("Learning rate", "step", [Series("learning rate", "first", points(metrics, "lr"))]),
        *([f"<h2>{TITLE}</h2>", sampled(samples)] if samples else []),
        *(["<h2>Answers</h2>"] if evaluation["answers"] else []),
        *_won(evaluation),
        *map(_answer, evaluation["answers"]),
        "<h2>Where it comes from</h2>",
        origin(record),
    ]
    return page(recipe.name, sections)


def _figures(evaluation: dict[str, Any]) -> str:
    sides = [("base", evaluation["before"])]
    if "in_context" in evaluation:
        shots = evaluation["in_context"]
        sides.append((f"base, {shots['examples']} examples in context", shots))
    sides.append(("tuned", evaluation["after"]))
    rows = []
    for title, name, form, lower_is_better in (
        ("loss a token", "loss", ".3f", True),
        ("perplexity", "perplexity", ".1f", True),
        ("token accuracy", "token_accuracy", ".1%", False),
    ):
        values = [side[name] for _, side in sides]
        best = min(values) if lower_is_better else max(values)
        cells = [f'<td class="number{" better" * (value == best)}">{value:{form}}</td>' for value in values]
        rows.append(f"<tr><th>{title}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th class=number>{text(name)}</th>" for name, _ in sides)
    note = f"{evaluation['examples']} examples ({evaluation['split']}), {evaluation['before']['targets']} targets"
    return f"<p class=dim>{note}</p><div class=scroll><table><tr><th></th>{heads}</tr>{''.join(rows)}</table></div>"


def _pairs(found: dict[str, Any]) -> str:
    rows = [
        f"<tr><th>{title}</th><td class=number>{cell(name, found['base'])}</td>"
        f"<td class=number>{cell(name, found['tuned'])}</td></tr>"
        for name, title in titles(found).items()
    ]
    rows += [
        f"<tr><th>… where the {text(name)}</th><td></td><td class=number>{part['preferred']:.1%}</td></tr>"
        for name, part in found["by_length"].items()
    ]
    heads = "<th></th><th class=number>base</th><th class=number>tuned</th>"
    return (
        f"<p class=dim>{found['pairs']} pairs of answers</p>"
        f"<div class=scroll><table><tr>{heads}</tr>{''.join(rows)}</table></div>"
    )


def _judged(found: dict[str, Any]) -> str:
    rows = [
        f"<tr><th>{title}</th><td class=number>{judged_titles.cell(name, found['base'])}</td>"
        f"<td class=number>{judged_titles.cell(name, found['tuned'])}</td></tr>"
        for name, title in judged_titles.TITLES.items()
    ]
    counts = (
        f"{found['desirable']} desirable answers, {found['answers'] - found['desirable']} undesirable ones"
    )
    note = "; ".join(filter(None, [counts, judged_titles.by_length(found)]))
    heads = "<th></th><th class=number>base</th><th class=number>tuned</th>"
    return f"<p class=dim>{note}</p><div class=scroll><table><tr>{heads}</tr>{''.join(rows)}</table></div>"


def _loss_title(evaluation: dict[str, Any]) -> str:
    if "pairs" in evaluation:
        return "Loss a pair"
    return "Loss an answer" if "judged" in evaluation else "Loss a token"


def _won(evaluation: dict[str, Any]) -> list[str]:
    return [f"<p>{text(sentence(evaluation['reward_model']))}</p>"] if "reward_model" in evaluation else []


def _answer(answer: dict[str, str]) -> str:
    sides = [("base", answer["base"]), ("tuned", answer["adapter"]), ("expected", answer["expected"])]
    columns = "".join(f"<div><h3>{name}</h3><p>{text(answered)}</p></div>" for name, answered in sides)
    return f"<article><p>{text(answer['prompt'])}</p><div class=sides>{columns}</div></article>"


def troubles(record: RunRecord) -> str:
    """HTML: a sentence for each collapse of the training and for what was not learnt, in red."""
    return "".join(f"<p class=bad>{text(sentence)}</p>" for sentence in record.troubles())


def origin(record: RunRecord, counted: str = "prompts") -> str:
    """HTML of base, weights, hops and versions. counted: the unit that hops were measured over."""
    rows = [
        ("base", f"{record.base.source} ({record.base.architecture}, licence {record.base.licence})"),
        ("weights", f"SHA-256 {record.base.hash}"),
        ("held as", f"{record.base.quantize}, other weights {record.base.dtype}"),
        ("kept step", str(record.best_step or record.steps)),
        *[
            (hop.name, f"max |Δ log p| {hop.max_abs_logprob:.1e} over {hop.prompts} {counted}")
            for hop in record.hops
        ],
        ("made with", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]
    cells = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f"<div class=scroll><table>{cells}</table></div>"


def losses(metrics: list[dict[str, Any]]) -> list[Series]:
    """The lines of the loss chart: each step with a moving average, and validations."""
    validation = Series("validation", "second", points(metrics, "validation_loss"), marks=True)
    return [*each_step(points(metrics, "loss")), validation]


def each_step(steps: list[tuple[float, float]]) -> list[Series]:
    """What training recorded at every step, faint, with a moving average if there are enough."""
    if len(steps) < ENOUGH:
        return [Series("training", "first", steps)]
    over = max(LEAST, len(steps) // PARTS)
    return [
        Series("training, each step", "first faint", steps),
        Series(f"exponential moving average, about {over} points, debiased", "first", averaged(steps, over)),
    ]


def points(metrics: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of each entry of metrics.jsonl that has the metric."""
    return [(entry["step"], entry[name]) for entry in metrics if name in entry]
