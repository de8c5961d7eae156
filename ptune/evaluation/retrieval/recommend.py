"""Evaluates recommenders on one held-out item per user: figures, baselines, worst users, report.html.

All items of the catalogue are ranked, except those of the user. Recall@k of one right item is the hit rate, HR@k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptune.config.columns import InteractionColumns
from ptune.config.recipe import Recipe
from ptune.data.shapes.interactions import History, Interaction, Interactions, read_had, read_interactions
from ptune.errors import DataError, UsageError
from ptune.evaluation.classification.evaluation import Pages
from ptune.evaluation.classification.onnx_side import served_as, the_adapter
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import refuse_unknown
from ptune.evaluation.retrieval import rankers as sides
from ptune.evaluation.retrieval.evaluate import figures, write
from ptune.evaluation.retrieval.measures import FIGURES, Scores
from ptune.evaluation.retrieval.queries import Queries
from ptune.evaluation.training_chart import pages_of
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.task_names import FEATURE_EXTRACTION
from ptune.formats.whole_write import read_json, write_text
from ptune.progress import Progress
from ptune.tasks.recommendation.index import ItemIndex
from ptune.training.folder import check_same_data
from ptune.training.journal.card import card

_NAMED = 5  # titles of a history shown in the report


@dataclass(frozen=True)
class Users:
    """Users whose next item is predicted; items are given by index."""

    queries: Queries
    histories: list[list[int]]
    had: list[int]
    """By how many users each item is had, whether they are among these or not; held-out items are not counted."""
    left_out: list[list[int]]  # items not to recommend: the history, and other held-out items
    cold: bool  # whether the right items were withheld from training


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on the held-out items; with a bundle, the served index beside torch.

    If the run withheld items, it is evaluated on those, ranked by their titles alone: no user is known to have them.
    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError for
    `data`, or if a requirement names an unknown figure.
    """
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    if asked.data:
        raise UsageError(
            "--data is not for recommendation: a run is judged by what was held out of its own users' items"
        )
    refuse_unknown(asked.require, FIGURES)
    interactions = read_interactions(recipe)
    interactions.check()
    files = [{"split": split, **file.described()} for split, file in interactions.files]
    check_same_data(run, {"files": files})
    users = users_of(interactions, files, recipe.evaluate.limit)
    own, baselines = _sides(run, users, asked)
    evaluation = figures(FEATURE_EXTRACTION, users.queries, own, baselines, asked.require, recipe.train.seed)
    evaluation |= chosen_by(run, users.queries.split)
    pages = pages_of(run, record, recipe.name)
    if users.cold:
        unseen = f"{len(interactions.withheld)} items that training never saw, found by their titles"
        pages = replace(pages, about=f"{pages.about}; {unseen}")
    write(run.folder, evaluation, users.queries, next(iter(own.values())), pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates a bundle's items on `data`, without torch: each user's newest item is predicted from the others.

    Uses the served vectors; `threads` is unused. Writes into `out`.
    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used, or no user has two items.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    refuse_unknown(asked.require, FIGURES)
    index = ItemIndex.open(bundle.adapter_path(record.name))
    named = InteractionColumns().changed(asked.columns)
    interactions = read_had(asked.data, dict(zip(index.items, index.titles, strict=True)), named)
    users = users_of(interactions, [file.described() for _, file in interactions.files])
    if not users.histories:
        raise DataError("no user has two items: there is none to look for", file=str(asked.data[0]))
    users = replace(users, queries=replace(users.queries, split="given"))
    own = {"ONNX": ranked(users, index, None)}
    beside = {
        "item-kNN": ranked(users, index, 1.0),
        "popularity": popular(users),
        "titles": ranked(users, index, 0.0),
    }
    evaluation = figures(FEATURE_EXTRACTION, users.queries, own, beside, asked.require, 0)
    write(out, evaluation, users.queries, own["ONNX"], Pages.of_adapter(bundle, record.name, "items of"))
    return evaluation


def users_of(interactions: Interactions, files: list[dict[str, Any]], limit: int | None = None) -> Users:
    """The users with a held-out item; if items were withheld, the users who have one of those."""
    cold, place = bool(interactions.withheld), interactions.place
    chosen: list[tuple[History, Interaction, list[Interaction], list[Interaction]]] = []
    for entry in interactions.histories:
        if cold and entry.withheld and entry.kept:
            chosen.append((entry, entry.withheld[-1], entry.kept, entry.withheld[:-1]))
        elif not cold and entry.test is not None:
            chosen.append((entry, entry.test, entry.kept[:-1], []))
    chosen = chosen[:limit]
    had = [0] * len(interactions.titles)
    for entry in interactions.histories:
        for row in entry.kept[:-1] if entry.test is not None else entry.kept:
            had[place[row.item]] += 1
    titles = list(interactions.titles.values())
    histories = [[place[row.item] for row in history] for _, _, history, _ in chosen]
    more = [[place[row.item] for row in others] for *_, others in chosen]
    named = [
        f"{entry.user}: " + "; ".join(titles[at] for at in history[-_NAMED:])
        for (entry, *_), history in zip(chosen, histories, strict=True)
    ]
    right = [{place[row.item]} for _, row, _, _ in chosen]
    places = [f"{row.file.name}, {row.file.problems.unit} {row.number}" for _, row, _, _ in chosen]
    passages = [f"{item}: {title}" for item, title in interactions.titles.items()]
    used = [{"path": file["path"], "sha256": file["sha256"]} for file in files]
    queries = Queries("test", named, right, passages, places, used)
    return Users(queries, histories, had, [[*a, *b] for a, b in zip(histories, more, strict=True)], cold)


def _sides(run: Run, users: Users, asked: EvaluationOptions) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Scores of the run's index (torch's vectors) and the served one (the engine's); and of each part alone."""
    from ptune.tasks.retrieval.torch_side import load_embeddings

    index, served = ItemIndex.open(run.adapter_path), served_as(run, asked.bundle, asked.adapter)
    weight = 0.0 if users.cold else None
    own = replace(index, vectors=_vectors("torch", load_embeddings(run), index.titles))
    scores = {"torch": ranked(users, own, weight)}
    if served is not None:
        there = ItemIndex.open(Bundle.open(served.folder).adapter_path(served.adapter))
        outputs = sides.served_outputs(served.folder, served.adapter, asked.threads)
        scores["ONNX"] = ranked(
            users, replace(there, vectors=_vectors("ONNX", outputs, there.titles)), weight
        )
    base = replace(index, vectors=_vectors("base", load_embeddings(run, trained=False), index.titles))
    beside = {"titles, base": ranked(users, base, 0.0)}
    if not users.cold:
        beside = {
            "item-kNN": ranked(users, index, 1.0),
            "popularity": popular(users),
            "titles": ranked(users, own, 0.0),
            **beside,
        }
    return scores, beside


def ranked(users: Users, index: ItemIndex, weight: float | None) -> Scores:
    """Scores [users, items]; -inf for items that are not to be recommended."""
    scores = np.stack([index.scores(history, weight=weight) for history in users.histories])
    for row, left_out in zip(scores, users.left_out, strict=True):
        row[left_out] = -np.inf
    return scores


def popular(users: Users) -> Scores:
    """Scores [users, items] by how many users have an item, the same for every user."""
    scores = np.repeat(np.array(users.had, np.float32)[None], len(users.histories), 0)
    for row, left_out in zip(scores, users.left_out, strict=True):
        row[left_out] = -np.inf
    return scores


def _vectors(name: str, embed: sides.Embed, titles: Sequence[str]) -> Any:
    with Progress(f"vectors, {name}", len(titles), unit="titles") as progress:
        return embed(titles, progress.advance)
