"""Evaluates translation runs on held-out pairs: chrF, BLEU, baselines, worst translations, report.html."""

from __future__ import annotations

from typing import Any

from ptune.config.recipe import Recipe
from ptune.config.translation import Translation
from ptune.evaluation.evaluate import backbone_of, models_of
from ptune.evaluation.held_out import HeldOut, held_out
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import refuse_unknown
from ptune.evaluation.training_chart import pages_of
from ptune.evaluation.translation.figures import COPY, figures, write
from ptune.evaluation.translation.pairs import Pairs, of_files, of_held
from ptune.evaluation.translation.scores import FIGURES
from ptune.evaluation.translation.seq2seq import evaluate_seq2seq
from ptune.evaluation.translation.served import by_bundle, limits, served_translator
from ptune.evaluation.translation.translators import by_torch, first_lines, with_shots
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_text
from ptune.tasks.translation.facts import is_seq2seq_run
from ptune.training.journal.card import card
from ptune.training.layers.adapter_off import adapter_off


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on its test files (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    if is_seq2seq_run(run):
        return evaluate_seq2seq(run, asked)
    refuse_unknown(asked.require, FIGURES)
    held = held_out(run)
    pairs = (
        of_files(asked.data, recipe.chat.with_columns(asked.columns)) if asked.data else of_held(run, held)
    )
    served = served_translator(run, asked)
    own, baselines = _translated(run, pairs, held)
    if served is not None:
        most = limits(held.codec, pairs.sources)
        own["ONNX"] = by_bundle(served.folder, served.adapter, pairs.sources, most, asked.threads)
    task = recipe.task
    language = task.target_language if isinstance(task, Translation) else None
    evaluation = figures(pairs, own, baselines, asked.require, recipe.train.seed, language)
    evaluation |= chosen_by(run, pairs.split)
    pages = pages_of(run, record, recipe.name, "prompts")
    write(run.folder, evaluation, pairs, own, baselines, pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def _translated(run: Run, pairs: Pairs, held: HeldOut) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Translates the rows with torch; returns the run's sides and the baselines."""
    recipe, codec = Recipe.load(run.recipe_path), held.codec
    base, tuned = models_of(run, run.finished_record(), recipe)
    most, device = limits(codec, pairs.sources), backbone_of(tuned).device
    baselines = {COPY: pairs.sources}
    if recipe.evaluate.in_context and held.train:
        count, prompts = with_shots(held, pairs.rows, recipe.evaluate.in_context, recipe.train.seed)
        name = f"base, {count} examples in context"
        with adapter_off(base):
            few_shot = by_torch(name, base, codec, prompts, most, device)
        baselines[name] = first_lines(few_shot, pairs.sources)
    bare_prompts = [row.prompt(codec) for row in pairs.rows]
    return {"torch": by_torch("torch", tuned, codec, bare_prompts, most, device)}, baselines
