"""Writes evaluation.json, predictions.jsonl and report.html from the translations of one or two sides. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.evaluation.classification.evaluation import PREDICTIONS, Pages
from ptune.evaluation.classification.report import report
from ptune.evaluation.classification.results import Measured
from ptune.evaluation.contents import Basis, contents
from ptune.evaluation.require import Requirement
from ptune.evaluation.style import text
from ptune.evaluation.translation.pairs import Pairs
from ptune.evaluation.translation.scores import gain, measure, of_rows
from ptune.formats.task_names import TRANSLATION
from ptune.formats.whole_write import write_json, write_json_lines, write_text

COPY = "copy of the source"
SHOWN = 12  # worst translations in the report
Said = Mapping[str, Sequence[str]]
"""Side -> a text a row."""


def figures(
    pairs: Pairs,
    own: Said,
    baselines: Said,
    require: Sequence[Requirement],
    seed: int,
    language: str | None,
) -> dict[str, Any]:
    """Returns the contents of evaluation.json. The first side's figures are the run's; `chrf_gain` is over the best baseline."""
    measured: dict[str, Measured] = {}
    signatures: dict[str, str] = {}
    against = ""
    for name, texts in {**own, **baselines}.items():
        measured[name], signatures = measure(texts, pairs.targets, seed, language)
        if name in own:
            value, interval, against = gain(texts, baselines, pairs.targets, seed)
            measured[name].metrics["chrf_gain"] = value
            measured[name].intervals["chrf_gain"] = interval
    first = measured[next(iter(own))]
    both = list(zip(*own.values(), strict=True)) if len(own) > 1 else []
    counts = {"too_long": pairs.left_out}
    return contents(
        Basis(
            TRANSLATION, TRANSLATION, pairs.split, len(pairs.rows), pairs.files, pairs.fingerprint, (), counts
        ),
        {name: measured[name] for name in own},
        {name: measured[name].figures() for name in baselines},
        [one.checked(first.metrics) for one in require],
        {"texts": sum(len(set(row)) == 1 for row in both) / len(both)} if both else None,
        gain_against=against,
        signatures=signatures,
    )


def write(
    folder: Path, evaluation: dict[str, Any], pairs: Pairs, own: Said, baselines: Said, pages: Pages
) -> None:
    """Writes predictions.jsonl, report.html and, last, evaluation.json."""
    name, translations = next(iter(own.items()))
    scores = of_rows(translations, pairs.targets)
    others = {**own, **baselines}
    lines: list[dict[str, Any]] = [
        {
            "place": pairs.places[at],
            "source": pairs.sources[at],
            "gold": target,
            "predicted": translations[at],
            "figures": {"chrf": scores[at]},
            "others": {side: texts[at] for side, texts in others.items() if side not in (name, COPY)},
        }
        for at, target in enumerate(pairs.targets)
    ]
    write_json_lines(folder / PREDICTIONS, lines)
    worst = sorted(lines, key=lambda line: line["figures"]["chrf"])[:SHOWN]
    mistakes = "".join(_article(line, name) for line in worst)
    about = f"{pages.about}; counted by sacrebleu: {'; '.join(evaluation['signatures'].values())}"
    if evaluation["counts"]["too_long"]:
        about += f"; {evaluation['counts']['too_long']} rows were too long and are left out"
    page = report(
        pages.name, about, evaluation, training=pages.training, mistakes=mistakes, origin=pages.origin
    )
    write_text(folder / "report.html", page)
    write_json(folder / "evaluation.json", evaluation)


def _article(line: Mapping[str, Any], name: str) -> str:
    """A row as HTML: its source, each side's translation, and the reference."""
    texts = {name: line["predicted"], "expected": line["gold"], **line["others"]}
    columns = "".join(f"<div><h3>{text(side)}</h3><p>{text(said)}</p></div>" for side, said in texts.items())
    about = (
        f"<p class=said><span class=dim>chrF {line['figures']['chrf']:.1f} · {text(line['place'])}</span></p>"
    )
    return f"<article><p>{text(line['source'])}</p><div class=sides>{columns}</div>{about}</article>"
