"""Evaluates a translation run on an encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from peft import PeftModel
from torch import nn

from ptune.backbone.seq2seq import load_seq2seq
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Recipe
from ptune.data.examples.seq2seq import load_pairs
from ptune.data.shapes.translations import as_conversation
from ptune.errors import BackboneError
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import refuse_unknown
from ptune.evaluation.training_chart import pages_of
from ptune.evaluation.translation.figures import COPY, figures, write
from ptune.evaluation.translation.pairs import Pairs, of_files
from ptune.evaluation.translation.scores import FIGURES
from ptune.evaluation.translation.served import served_translator
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_text
from ptune.progress import Progress
from ptune.tasks.translation.greedy import translated
from ptune.tasks.translation.infer import LONGER, MORE
from ptune.tasks.translation.seq2seq_infer import load
from ptune.tasks.translation.seq2seq_work import translation_of
from ptune.training.journal.card import card
from ptune.training.layers.adapter_off import adapter_off

ROWS = 16  # texts in a batch


def evaluate_seq2seq(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """As `ptune.evaluation.translation.evaluate.evaluate_run`; baselines are a copy of the source and the bare base."""
    refuse_unknown(asked.require, FIGURES)
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    task, codec = translation_of(recipe), Seq2SeqCodec.open(run.codec_path)
    pairs = (
        of_files(asked.data, task.with_columns(asked.columns)) if asked.data else _held(run, recipe, codec)
    )
    own, baselines = _translated(run, recipe, codec, pairs)
    served = served_translator(run, asked)
    if served is not None:
        with closing(load(served.folder, threads=asked.threads)) as model:
            own["ONNX"] = model.translate(pairs.sources, served.adapter)
    evaluation = figures(pairs, own, baselines, asked.require, recipe.train.seed, task.target_language)
    evaluation |= chosen_by(run, pairs.split)
    pages = pages_of(run, record, recipe.name, "prompts")
    write(run.folder, evaluation, pairs, own, baselines, pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def _held(run: Run, recipe: Recipe, codec: Seq2SeqCodec) -> Pairs:
    """A run's own pairs: its test files, else its validation split."""
    splits = load_pairs(recipe.data, translation_of(recipe), codec, recipe.train.seed).splits
    name = "test" if splits["test"].pairs else "validation"
    held = splits[name].pairs[: recipe.evaluate.limit]
    files = read_json(run.data_path)["files"]
    named = [file for file in files if file["split"] == name] or files
    return Pairs(
        "test" if name == "test" else "validation",
        [as_conversation(one.source, one.target) for one in held],
        [f"{name}, example {at}" for at in range(1, len(held) + 1)],
        [{"path": file["path"], "sha256": file["sha256"]} for file in named],
        splits[name].left_out,
    )


def _translated(
    run: Run, recipe: Recipe, codec: Seq2SeqCodec, pairs: Pairs
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Translates with torch; returns the run's side and the baselines. Raises: BackboneError if the base has changed."""
    base, tuned = models_of(run, recipe)
    prefix, sources = translation_of(recipe).system or "", pairs.sources
    with adapter_off(base):
        before = generated("base", base, codec, [prefix + source for source in sources])
    after = generated("torch", tuned, codec, [prefix + source for source in sources])
    return {"torch": after}, {COPY: sources, "base": before}


def models_of(run: Run, recipe: Recipe) -> tuple[nn.Module, nn.Module]:
    """Loads base and tuned model. With an adapter both are one PeftModel, whose adapter can be switched off.

    Raises: BackboneError if the base has changed.
    """
    loaded = load_seq2seq(recipe.backbone)
    if loaded.identity.hash != run.record().base.hash:
        raise BackboneError(
            f"{recipe.backbone.model} no longer holds the weights that {run.folder} was trained on"
        )
    if run.has_adapter:
        model = PeftModel.from_pretrained(loaded.model, str(run.adapter_path))
        return model, model
    return loaded.model, load_seq2seq(recipe.backbone.saved_at(run.model_path)).model


def generated(label: str, model: nn.Module, codec: Seq2SeqCodec, sources: Sequence[str]) -> list[str]:
    """Greedy translations by transformers, in order."""
    most = codec.texts.limit(None)
    texts: list[str] = []
    with Progress(f"translations, {label}", len(sources), unit="texts") as progress:
        for start in range(0, len(sources), ROWS):
            ids = [codec.source(text).ids for text in sources[start : start + ROWS]]
            limits = [min(LONGER * len(one) + MORE, most or LONGER * len(one) + MORE) for one in ids]
            texts += map(codec.decode, translated(model, codec, ids, limits))
            progress.advance(len(ids))
    return texts
