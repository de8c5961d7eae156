"""A recommendation run: learns close vectors for titles that a user had, and counts items had together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.data.examples.pairs import encoded_pairs
from ptune.data.shapes.interactions import Interaction, Interactions, read_interactions
from ptune.doctor.command_line import doctor_command
from ptune.doctor.interactions import judged
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.methods.lora import Lora
from ptune.progress import say
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.work import check_backbone
from ptune.tasks.recommendation.index import RECALL, Floats, ItemIndex, together
from ptune.tasks.recommendation.int8_scan import LEAST_ITEMS, LEAST_RECALL, recall
from ptune.tasks.retrieval.embedding import EmbeddingWork
from ptune.tasks.retrieval.torch_side import TorchVectors
from ptune.training.distributed import decided_by_one

WEIGHTS = tuple(step / 20 for step in range(21))
"""Weights of items had together to try."""
_MOST, _MOST_SCORES = (
    10_000,
    50_000_000,
)  # users that the weight is chosen by, and their scores, which lie in memory
_ASKED = 100  # number of users for measuring the int8 search
_FIRST = 10  # number of recommendations that count


@dataclass
class RecommendationWork(EmbeddingWork):
    """An EmbeddingWork that also saves the items beside the adapter."""

    interactions: Interactions

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        hop = super().save(run, model, identity, writes=writes)
        if writes:
            facts = self._facts(model, identity)
            vectors = TorchVectors(model.eval(), self.codec, facts)(list(self.interactions.titles.values()))
            index = item_index(self.interactions, vectors)
            index.save(run.adapter_path)
            say(
                f"{len(index.items):,} items; what is had together weighs {index.weight:g}, titles {1 - index.weight:g}"
            )
            if len(index.items) >= LEAST_ITEMS:
                found = scan_recall(index, self.interactions)
                embedding = {**(facts.embedding or {}), RECALL: found}
                facts.model_copy(update={"embedding": embedding}).save(run.adapter_path)
        return hop

    def _facts(self, model: nn.Module, identity: BaseIdentity) -> Facts:
        facts = super()._facts(model, identity)
        return facts.model_copy(
            update={"embedding": {**(facts.embedding or {}), "items": len(self.interactions.titles)}}
        )


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> RecommendationWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = recipe.task
    assert isinstance(task, Recommendation)
    check_backbone(recipe)
    if not (isinstance(recipe.method, Lora) and recipe.method.plain):
        raise RecipeError("recommendation is trained with method Lora: its items lie beside the adapter")
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RecipeError("recommendation cannot be trained on sharded weights yet: train it in one process")
    if recipe.train.batch_size < 2 or not task.normalize:
        raise RecipeError("recommendation needs train.batch_size of 2 or more, and task.normalize true")
    codec = load_sequence_codec(recipe.backbone)
    interactions = read_interactions(recipe)
    interactions.check()
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(interactions, doctor_command(command)))
    data = encoded_pairs(interactions.pairs(recipe.data.limit), recipe.data, task, codec)
    say(
        f"{len(interactions.histories):,} users, {len(interactions.titles):,} items, {len(data.train):,} pairs to train on"
    )
    summary = {**data.summary, "findings": findings, "withheld": sorted(interactions.withheld)}
    return RecommendationWork(recipe, codec, replace(data, summary=summary), interactions)


def item_index(found: Interactions, vectors: Floats) -> ItemIndex:
    """The index of all interactions except the test's. Its weight is the one that finds the most validation items.

    vectors: [items, width] of the titles, of length 1.
    """
    place, titles = found.place, found.titles

    def numbers(rows: Sequence[Interaction]) -> list[int]:
        return [place[row.item] for row in rows]

    train = [numbers(one.train) for one in found.histories]
    index = ItemIndex(list(titles), list(titles.values()), vectors, *together(train, len(titles)), 0.0)
    held = [
        (history, place[one.validation.item])
        for history, one in zip(train, found.histories, strict=True)
        if one.validation is not None
    ]
    most = min(_MOST, max(_MOST_SCORES // len(titles), _ASKED))
    weight = chosen_weight(index, held[:most]) if held else 0.5
    known = [numbers(one.kept[:-1] if one.test else one.kept) for one in found.histories]
    return ItemIndex(index.items, index.titles, vectors, *together(known, len(titles)), weight)


def scan_recall(index: ItemIndex, found: Interactions) -> float:
    """The share of the first ten titles that an int8 search finds for some users; reports whether int8 is used."""
    users = [one.train for one in found.histories if one.train][:_ASKED]
    queries = [index.vectors[[found.place[row.item] for row in history]].mean(0) for history in users]
    share = recall(index.vectors, np.stack(queries))
    taken = share >= LEAST_RECALL
    then = "is served" if taken else f"is not served, as that is below {LEAST_RECALL:.0%}: float32 is"
    say(f"a search in int8 finds {share:.1%} of the first ten that float32 finds: it {then}")
    return share


def chosen_weight(index: ItemIndex, held: Sequence[tuple[Sequence[int], int]]) -> float:
    """The weight of items had together that puts the most held-out items among the first ten; ties by NDCG.

    held: histories, each with its next item.
    """
    by_titles = [index.scores(history, weight=0.0) for history, _ in held]
    by_users = [index.scores(history, weight=1.0) for history, _ in held]
    figures = []
    for weight in WEIGHTS:
        ranks = np.array(
            [
                _rank(weight * users + (1 - weight) * titles, history, item)
                for titles, users, (history, item) in zip(by_titles, by_users, held, strict=True)
            ]
        )
        first = ranks < _FIRST
        figures.append((float(first.mean()), float((first / np.log2(ranks + 2)).mean()), weight))
    return max(figures)[2]


def _rank(scores: Floats, history: Sequence[int], item: int) -> int:
    """Number of items ranked before `item` that the user does not have."""
    own = scores[item]
    before = scores > own
    before[:item] |= scores[:item] == own
    before[list(history)] = False
    return int(before.sum())
