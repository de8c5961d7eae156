"""Evaluates a chat run: figures and answers of the base and the tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from ptune.backbone.image_rows import show
from ptune.backbone.load import load
from ptune.backbone.streaming import beside_activations
from ptune.backbone.weight_shapes import shapes_alone
from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.store import spooled
from ptune.data.shapes.conversations import Askable
from ptune.errors import BackboneError, TemplateError, UsageError
from ptune.evaluation import judged, pairs
from ptune.evaluation.figures import Figures, figures
from ptune.evaluation.held_out import HeldOut, held_out
from ptune.evaluation.in_context import after, in_context, shots
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.no_better import judged as against_baselines
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.report import report
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.evaluation.win_rate import Judge, sentence
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import read_json, write_json, write_text
from ptune.methods.peft_method import streams
from ptune.progress import say
from ptune.tasks.chat.answers import answers
from ptune.training.journal.card import card
from ptune.training.layers.adapter_off import adapter_off
from ptune.training.layers.lora_product import with_lora_products

FORMAT = 1


def evaluate(
    run: Run,
    require: Sequence[Requirement] = (),
    reward_model: Path | None = None,
    threads: int | None = None,
    kept: int | None = None,
) -> dict[str, Any]:
    """Compares base and tuned model on held-out data; writes evaluation.json, report.html and the model card.

    reward_model: a bundle with one, which compares their answers, by `threads` threads. kept: answers side by side.

    Raises: FormatError if the run is not finished; BackboneError if its base has changed; UsageError
    if a requirement names an unknown figure.
    """
    record, recipe = run.finished_record(), _keeping(kept, Recipe.load(run.recipe_path))
    judge = None if reward_model is None else Judge.open(reward_model)
    won = ("win_rate",) if judge is not None else ()
    refuse_unknown(require, ("loss", "perplexity", "token_accuracy", *_of_answers(recipe), *won))
    held = held_out(run)
    conversations = _askable(held, recipe, None if judge is not None else recipe.evaluate.answers)
    evaluation = _counted(run, held)
    base, tuned = models_of(run, record, recipe)
    show(backbone_of(base), held.images, held.codec, record.base.hash)
    with adapter_off(base):
        evaluation["before"] = _figures("base", base, held, recipe)
        baseline = _in_context(base, held, recipe)
        if baseline is not None:
            evaluation["in_context"] = baseline
        base_answers = _answers("base", base, held, conversations, recipe)
        base_log_p = _log_probabilities("base", base, held, recipe)
    evaluation["after"] = _figures("tuned", tuned, held, recipe)
    tuned_answers = _answers("tuned", tuned, held, conversations, recipe)
    evaluation["answers"] = [
        {"prompt": conversation.question, "expected": conversation.answer, "base": before, "adapter": after}
        for conversation, before, after in islice(
            zip(conversations, base_answers, tuned_answers, strict=True), recipe.evaluate.answers
        )
    ]
    evaluation |= _compared(base_log_p, tuned, held, recipe)
    tuned_figures = (evaluation.get("pairs") or evaluation.get("judged") or {}).get("tuned", {})
    own = {name: tuned_figures[name]["value"] for name in _of_answers(recipe) if name in tuned_figures}
    if judge is not None and conversations:
        verdict = judge.compared(conversations, base_answers, tuned_answers, threads)
        evaluation["reward_model"] = verdict
        own["win_rate"] = verdict["win_rate"]["value"]
    evaluation["requirements"] = [one.checked({**evaluation["after"], **own}) for one in require]
    evaluation = against_baselines(evaluation)
    write_json(run.evaluation_path, evaluation)
    write_text(run.report_path, report(record, recipe, evaluation, run.metrics(), run.samples()))
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    console = Console(highlight=False)
    console.print(before_and_after(evaluation))
    if "pairs" in evaluation:
        console.print(pairs.table(evaluation["pairs"]))
    if "judged" in evaluation:
        console.print(judged.table(evaluation["judged"]))
    if "reward_model" in evaluation:
        console.print(sentence(evaluation["reward_model"]), markup=False)
    return evaluation


def _counted(run: Run, held: HeldOut) -> dict[str, Any]:
    """What is measured on: the beginning of evaluation.json."""
    counted = {"format": FORMAT, "split": held.split, "examples": len(held.examples)}
    return {**counted, **chosen_by(run, held.split)}


def _keeping(answers: int | None, recipe: Recipe) -> Recipe:
    """The recipe, which keeps so many answers side by side; None: as many as it says."""
    if answers is None:
        return recipe
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"answers": answers})})


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """As `evaluate`, with the signature of every task. Raises: UsageError for arguments that chat does not use."""
    unused = {
        "data": asked.data, "task.columns": asked.columns, "bundle": asked.bundle, "adapter": asked.adapter,
    }  # fmt: skip
    for name, value in unused.items():
        if value:
            raise UsageError(
                f"--{name} is for classifiers, and {run.folder} is a chat run: it is measured on its own held-out data"
            )
    return evaluate(run, asked.require, asked.reward_model, asked.threads, asked.answers)


def before_and_after(evaluation: dict[str, Any]) -> Table:
    """The figures of evaluation.json as a table."""
    table = Table(
        title=f"{evaluation['examples']} held-out examples ({evaluation['split']}), {evaluation['before']['targets']} targets"
    )
    shown = {"base": evaluation["before"], "tuned": evaluation["after"]}
    if "in_context" in evaluation:
        count = evaluation["in_context"]["examples"]
        shown = {
            "base": evaluation["before"],
            f"base, {count} examples in context": evaluation["in_context"],
            "tuned": evaluation["after"],
        }
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="right")
    table.add_row("loss a token", *[f"{side['loss']:.3f}" for side in shown.values()])
    table.add_row("perplexity", *[f"{side['perplexity']:.1f}" for side in shown.values()])
    table.add_row("token accuracy", *[f"{side['token_accuracy']:.1%}" for side in shown.values()])
    return table


def models_of(run: Run, record: RunRecord, recipe: Recipe) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Loads base and tuned model. With an adapter both are one PeftModel, whose adapter can be switched off."""
    loaded = load(recipe.backbone, streamed=recipe.backbone.stream)
    if loaded.identity.hash != record.base.hash:
        raise BackboneError(
            f"{recipe.backbone.model} no longer holds the weights that {run.folder} was trained on"
        )
    if run.has_adapter:
        with shapes_alone(streams(recipe.method)):
            wrapped = PeftModel.from_pretrained(loaded.model, str(run.adapter_path))
        model = with_lora_products(wrapped)
        beside_activations(model, loaded.model.device)
        return model, model
    return loaded.model, load(recipe.backbone.saved_at(run.model_path)).model


def backbone_of(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a model that may have an adapter."""
    backbone = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(backbone, PreTrainedModel)
    return backbone


def _figures(label: str, model: torch.nn.Module, held: HeldOut, recipe: Recipe) -> Figures:
    label = f"held-out loss, {label}"
    return figures(label, model, backbone_of(model), held.examples, recipe.train.micro_batch_tokens)


def _of_answers(recipe: Recipe) -> tuple[str, ...]:
    """Names of the figures that only a run on preferences has, and that can be required."""
    if isinstance(recipe.task, Preference):
        return ("preferred",)
    return ("told_apart", "gained", "lost") if isinstance(recipe.task, UnpairedPreference) else ()


def _log_probabilities(
    label: str, model: torch.nn.Module, held: HeldOut, recipe: Recipe
) -> NDArray[np.float64] | None:
    """Of held-out pairs or judged answers; None if the run is not one on preferences."""
    most, backbone = recipe.train.micro_batch_tokens, backbone_of(model)
    if isinstance(recipe.task, Preference):
        return pairs.measured(f"pairs, {label}", model, backbone, held.pairs, recipe.task, most)
    if isinstance(recipe.task, UnpairedPreference):
        label = f"judged answers, {label}"
        return judged.measured(label, model, backbone, held.judged, recipe.task, most)
    return None


def _compared(
    base: NDArray[np.float64] | None, tuned: torch.nn.Module, held: HeldOut, recipe: Recipe
) -> dict[str, Any]:
    """`pairs` or `judged` of evaluation.json."""
    after = _log_probabilities("tuned", tuned, held, recipe)
    if base is None or after is None:
        return {}
    if isinstance(recipe.task, Preference):
        return {"pairs": pairs.compared(recipe.task, held.pairs, base, after)}
    return {"judged": judged.compared(held.judged, base, after)}


def _in_context(model: torch.nn.Module, held: HeldOut, recipe: Recipe) -> dict[str, Any] | None:
    """Figures of the bare base with training conversations in its prompt; None if none can be used."""
    if not held.train or not held.conversations:
        return None
    longest = max(map(len, held.examples))
    room = None if held.codec.context is None else held.codec.context - longest
    chosen = shots(held.train, recipe.evaluate.in_context, room, held.codec, recipe.train.seed)
    if not chosen:
        return None
    try:
        examples = spooled(
            example
            for asked in held.conversations
            for example in after(chosen, asked, held.codec, recipe.chat.train_on)
        )
    except TemplateError as error:
        say(f"no in-context baseline: {error}")
        return None
    missing = sum(one.target_count for one in held.examples) - sum(one.target_count for one in examples)
    if missing:
        say(f"the in-context baseline lacks rows that were cut, or are raw text: {missing} targets")
    label = f"base with {len(chosen)} examples in context"
    return {**in_context(label, model, examples, backbone_of(model).device), "examples": len(chosen)}


def _askable(held: HeldOut, recipe: Recipe, most: int | None) -> list[Askable]:
    """The first held-out conversations whose prompts leave room for an answer; at most `most`."""
    if most != 0 and not held.conversations:
        say("no answers side by side: what is held out is raw text, or was cut, and asks nothing")
    room = None if held.codec.context is None else held.codec.context - recipe.evaluate.answer_tokens
    fitting = (c for c in held.conversations if room is None or len(c.prompt(held.codec)) <= room)
    return list(islice(fitting, most))


def _answers(
    label: str, model: torch.nn.Module, held: HeldOut, conversations: list[Askable], recipe: Recipe
) -> list[str]:
    if not conversations:
        return []
    say(f"answers, {label}")
    prompts = [conversation.prompt(held.codec) for conversation in conversations]
    return answers(model, held.codec, prompts, recipe.evaluate.answer_tokens, backbone_of(model).device)
