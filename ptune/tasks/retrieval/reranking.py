"""A reranking run: a classifier of (query, passage) pairs with one label, relevant or not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from ptune.backbone.classifier import load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.config.retrieval import RELEVANT, Reranking
from ptune.data.examples.sequences import SequenceData, SequenceExample, SequenceSplit
from ptune.data.label_splits import SPLITS
from ptune.data.shapes.pairs import Pair, PairSplits, read_pair_splits
from ptune.doctor.command_line import doctor_command
from ptune.doctor.pairs import judged
from ptune.errors import DataError, RecipeError
from ptune.formats.run import Run
from ptune.formats.task_names import TEXT_RANKING
from ptune.formats.whole_write import read_json
from ptune.progress import say
from ptune.tasks.encoder.work import SequenceWork, check_backbone
from ptune.training.distributed import decided_by_one

LABELS = Labels((RELEVANT,), "multi")
_FITS, _DOES_NOT = (0,), ()


@dataclass
class RerankingWork(SequenceWork):
    """The work of a reranking run: one label per pair."""

    @property
    def name(self) -> str:
        return TEXT_RANKING

    @property
    def max_length(self) -> int | None:
        return reranking_of(self.recipe).max_length


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> RerankingWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = reranking_of(recipe)
    check_backbone(recipe)
    if recipe.data.weights:
        raise RecipeError("data.weights is not for reranking: name a file more than once instead")
    codec = load_sequence_codec(recipe.backbone)
    splits = read_pair_splits(recipe.data, recipe.train.seed, task.columns)
    splits.check()
    made = {name: scored(splits.rows[name], task, codec, recipe.train.seed) for name in SPLITS}
    _refuse(made, task)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, None, doctor_command(command)))
    for name, split in made.items():
        if split.examples:
            right = sum(example.target == _FITS for example in split.examples)
            say(f"{name}: {len(split.examples)} pairs, {right} of them right")
    return RerankingWork(recipe, codec, _data(recipe, splits, made, codec, findings))


def reranking_of(recipe: Recipe) -> Reranking:
    """The task of a recipe that is known to train a reranker."""
    assert isinstance(recipe.task, Reranking)
    return recipe.task


def scored(rows: Sequence[Pair], task: Reranking, codec: SequenceCodec, seed: int) -> SequenceSplit:
    """Pairs each anchor with its passage, with its row's wrong passages, and with `sampled` passages of other rows.

    What is right by another row of the same anchor is no wrong passage, even where a row says so.
    """
    split = SequenceSplit()
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row.anchor, {row.anchor}).add(row.positive)
    others = sorted({row.positive for row in rows})
    chance = random.Random(seed)  # noqa: S311 - the same rows on every machine
    for row in rows:
        drawn = chance.sample(others, min(len(others), task.sampled + len(right[row.anchor])))
        wrong = [text for text in drawn if text not in right[row.anchor]][: task.sampled]
        named = [text for text in row.negatives if text == row.anchor or text not in right[row.anchor]]
        for passage in dict.fromkeys((row.positive, *named, *wrong)):
            encoded = codec.encode(row.anchor, passage, task.max_length)
            split.lengths[encoded.length] += 1
            split.longest = max(split.longest, (encoded.length, row.place), key=lambda known: known[0])
            split.overlong += encoded.truncated
            if encoded.truncated and task.on_overlong == "drop":
                split.left_out += 1
                continue
            target = _FITS if passage == row.positive else _DOES_NOT
            split.examples.append(SequenceExample(encoded.ids, encoded.type_ids, target))
    return split


def _refuse(made: Mapping[str, SequenceSplit], task: Reranking) -> None:
    """Raises: DataError if pairs are too long and that is an error, if none is left, or if there is no wrong passage."""
    overlong = sum(split.overlong for split in made.values())
    if overlong and task.on_overlong == "error":
        length, place = max((split.longest for split in made.values()), key=lambda found: found[0])
        raise DataError(
            f"{overlong} pairs are longer than {task.max_length} tokens (longest {length}, {place});"
            " use --task.on-overlong truncate or drop, or raise --task.max-length"
        )
    targets = {example.target for example in made["train"].examples}
    if _FITS not in targets:
        raise DataError(f"no right pair is left to train on: all are longer than {task.max_length} tokens")
    if _DOES_NOT not in targets:
        raise DataError(
            "there is no wrong pair to train on: give rows a `negative`, or set --task.sampled to 1 or more"
        )


def _data(
    recipe: Recipe,
    splits: PairSplits,
    made: Mapping[str, SequenceSplit],
    codec: SequenceCodec,
    findings: Sequence[object],
) -> SequenceData:
    summary = {
        "files": [{"split": split, **file.described()} for split, file in splits.files],
        "validation_share": None if recipe.data.validation else recipe.data.validation_share,
        "longest_tokens": codec.limit(reranking_of(recipe).max_length),
        "on_overlong": reranking_of(recipe).on_overlong,
        **{name: split.described(LABELS) for name, split in made.items()},
        "findings": list(findings),
    }
    return SequenceData(LABELS, made, (len(made["train"].examples),), summary)
