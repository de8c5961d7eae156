"""Evaluates retrieval runs and bundles on held-out queries: figures, baselines, worst queries, report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptune.config.columns import PairColumns
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding
from ptune.evaluation.classification.evaluation import PREDICTIONS, Pages
from ptune.evaluation.classification.onnx_side import served_as, the_adapter
from ptune.evaluation.classification.report import report
from ptune.evaluation.contents import Basis, contents
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.evaluation.retrieval import rankers as sides
from ptune.evaluation.retrieval.measures import FIGURES, Scores, best, measure, per_query
from ptune.evaluation.retrieval.queries import Queries, of_files, of_run
from ptune.evaluation.retrieval.worst import gallery
from ptune.evaluation.training_chart import pages_of
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.task_names import FEATURE_EXTRACTION, TEXT_RANKING
from ptune.formats.whole_write import read_json, write_json, write_json_lines, write_text
from ptune.training.journal.card import card


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on its test files (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    refuse_unknown(asked.require, FIGURES)
    queries = of_run(run, asked.data, asked.columns)
    served = served_as(run, asked.bundle, asked.adapter)
    onnx = None if served is None else sides.served_outputs(served.folder, served.adapter, asked.threads)
    embeds = isinstance(recipe.task, Embedding)
    own, baselines = (_vectors if embeds else _pairs)(run, queries, onnx)
    seed, task = recipe.train.seed, FEATURE_EXTRACTION if embeds else TEXT_RANKING
    evaluation = figures(task, queries, own, baselines, asked.require, seed) | chosen_by(run, queries.split)
    pages = pages_of(run, record, recipe.name)
    write(run.folder, evaluation, queries, next(iter(own.values())), pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates one adapter of a bundle on the queries and passages of `data`, without torch; writes into `out`.

    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    refuse_unknown(asked.require, FIGURES)
    queries, words = of_files(asked.data, PairColumns().changed(asked.columns)), {}
    outputs = sides.served_outputs(folder, record.name, asked.threads)
    by_words = sides.by_words(queries)
    if record.task == FEATURE_EXTRACTION:
        own = {"ONNX": sides.cosines(*sides.vectors_of("ONNX", queries, outputs))}
        words = {"TF-IDF": by_words}
    else:
        chosen = sides.candidates(queries, by_words)
        own = {"ONNX": sides.reranked("ONNX", queries, chosen, outputs)}
        words = {"TF-IDF": sides.only(by_words, chosen)}
    evaluation = figures(record.task, queries, own, words, asked.require, 0)
    write(out, evaluation, queries, own["ONNX"], Pages.of_adapter(bundle, record.name))
    return evaluation


def _vectors(run: Run, queries: Queries, onnx: Any) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Sides and baselines of an embedding model; its smaller sizes are sides, too."""
    from ptune.tasks.retrieval.torch_side import load_embeddings

    model = load_embeddings(run)
    assert model.facts.embedding is not None
    there = sides.vectors_of("torch", queries, model)
    own = {"torch": sides.cosines(*there)}
    if onnx is not None:
        own["ONNX"] = sides.cosines(*sides.vectors_of("ONNX", queries, onnx))
    own |= {f"first {size}": sides.cosines(*there, size) for size in model.facts.embedding["dimensions"]}
    del model
    base = sides.vectors_of("base", queries, load_embeddings(run, trained=False))
    return own, {"base": sides.cosines(*base), "TF-IDF": sides.by_words(queries)}


def _pairs(run: Run, queries: Queries, onnx: Any) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Sides and baselines of a reranker, all on the same candidates."""
    from ptune.tasks.encoder.predictions import text_predictor

    words = sides.by_words(queries)
    chosen = sides.candidates(queries, words)
    own = {"torch": sides.reranked("torch", queries, chosen, sides.torch_pairs(text_predictor(run)))}
    if onnx is not None:
        own["ONNX"] = sides.reranked("ONNX", queries, chosen, onnx)
    return own, {"TF-IDF": sides.only(words, chosen)}


def figures(
    task: str,
    queries: Queries,
    own: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    require: Sequence[Requirement],
    seed: int,
) -> dict[str, Any]:
    """Returns the contents of evaluation.json. The first side's figures are the run's own."""
    measured = {name: measure(scores, queries.relevant, seed) for name, scores in own.items()}
    first = next(iter(measured.values()))
    agreement = None
    if {"torch", "ONNX"} <= set(own):
        finite = np.isfinite(own["torch"])
        agreement = {"max_abs_p": float(np.abs(own["torch"][finite] - own["ONNX"][finite]).max())}
    return contents(
        Basis(task, "ranking", queries.split, len(queries.queries), queries.files, queries.fingerprint),
        measured,
        {name: measure(scores, queries.relevant, seed).figures() for name, scores in baselines.items()},
        [one.checked(first.metrics) for one in require],
        agreement,
        passages=len(queries.passages),
        candidates=sides.CANDIDATES if task == TEXT_RANKING else None,
    )


def write(folder: Path, evaluation: dict[str, Any], queries: Queries, scores: Scores, pages: Pages) -> None:
    """Writes evaluation.json, report.html, and predictions.jsonl with each query's first ten passages."""
    lines, each = [], per_query(scores, queries.relevant)
    for at, query in enumerate(queries.queries):
        first = best(scores[at], 10)
        line = {
            "place": queries.places[at],
            "query": query,
            "figures": {name: float(values[at]) for name, values in each.items()},
            "right": sorted(queries.passages[one] for one in queries.relevant[at]),
            "found": [queries.passages[one] for one in first],
            "scores": [round(float(scores[at, one]), 6) for one in first],
        }
        lines.append(line)
    write_json_lines(folder / PREDICTIONS, lines)
    mistakes = gallery(queries, scores)
    about = f"{pages.about}; searched in {evaluation['passages']:,} passages"
    if evaluation["candidates"]:
        about += f", of which {evaluation['candidates']} a query, by TF-IDF, and the right ones are ordered"
    page = report(
        pages.name, about, evaluation, training=pages.training, mistakes=mistakes, origin=pages.origin
    )
    write_text(folder / "report.html", page)
    write_json(folder / "evaluation.json", evaluation)
