"""One training run: a recipe becomes a run folder."""

from __future__ import annotations

import importlib.util
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load, resolve_dtype
from ptune.codecs.chat import ChatCodec, Example
from ptune.data import dataset
from ptune.data.dataset import Dataset
from ptune.errors import DataError, ParityError, RecipeError
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import write_text
from ptune.methods.lora import Lora
from ptune.progress import console, duration, say
from ptune.recipe import Recipe, Train
from ptune.tasks.chat.train import ChatObjective, codec_for
from ptune.training.card import card
from ptune.training.checkpoint import Checkpoints, State, trained
from ptune.training.dropout import set_dropout
from ptune.training.environment import instruction_set, versions
from ptune.training.finish import save_trained
from ptune.training.folder import begin, check_folder, check_same_inputs
from ptune.training.head import plain_head
from ptune.training.journal import Journal
from ptune.training.loop import Ending, Job, fit
from ptune.training.memory import memory_errors
from ptune.training.packing import targets
from ptune.training.segments import checkpoint_contexts, packing

DONE = ("finished", "stopped early")


def train(recipe: Recipe, out: Path, *, resume: bool = False, command: str = "") -> Run:
    """Trains `recipe` into the folder `out` and returns the run; its status is "interrupted" after Ctrl-C.

    With `resume` it goes on from the newest checkpoint in `out`, to the same bytes as if it had never stopped.
    `command` is what the user typed, quoted for a shell.

    Raises: PtuneError of the kind that fits, where recipe, data, backbone or folder cannot be used.
    """
    run = Run(out)
    accelerator = _accelerator(recipe, run)
    console.quiet = not accelerator.is_main_process
    recipe = resolved(recipe, accelerator)
    check_folder(run, recipe, resume)
    if run.record_path.is_file() and run.record().status in DONE:
        say(f"{out} is {run.record().status} already: nothing to resume")
        return run
    accelerator.wait_for_everyone()  # every process has looked before one of them writes
    loaded = load(recipe.backbone, device=accelerator.device)
    codec = codec_for(recipe.task, loaded.codec)
    data = dataset.load(recipe.data, recipe.task, codec, recipe.train.seed)
    record = _record(recipe, run, loaded.identity, accelerator, command)
    check_same_inputs(run, record, data.summary)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        begin(run, record, recipe, data.summary, codec)
    model = applied(recipe, loaded.model)
    with memory_errors(recipe):
        state, ending = _fit(recipe, run, model, loaded.model, data, accelerator)
    if accelerator.is_main_process:
        done = {"steps": state.step, "best_step": state.best_step, "seconds": round(state.seconds, 3)}
        record = record.model_copy(update={**done, "status": ending})
        if ending == "interrupted":
            run.write_record(record)
            say(f"interrupted after step {state.step}; go on with: {_resume_command(command, run)}")
        else:
            _finish(run, record, recipe, model, codec, data)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run


def resolved(recipe: Recipe, accelerator: Accelerator) -> Recipe:
    """The recipe with "auto" replaced by what it means here, so that it means the same elsewhere.

    Weights that are trained themselves are float32: small updates would be lost in 16 bits.
    """
    if recipe.train.batch_size < accelerator.num_processes:
        raise RecipeError(
            f"train.batch_size is {recipe.train.batch_size}, fewer examples than the {accelerator.num_processes} processes"
        )
    trains_itself = not isinstance(recipe.method, Lora)
    dtype = torch.float32 if trains_itself else resolve_dtype(recipe.backbone, accelerator.device)
    if trains_itself and recipe.backbone.dtype == "bfloat16":
        raise RecipeError(
            f"backbone.dtype 'bfloat16' cannot be trained by {type(recipe.method).__name__}: use float32"
        )
    backbone = recipe.backbone.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
    return recipe.model_copy(update={"backbone": backbone})


def applied(recipe: Recipe, backbone: PreTrainedModel) -> nn.Module:
    """The backbone made ready to be trained by the recipe's method."""
    if recipe.train.dropout is not None:
        set_dropout(backbone, recipe.train.dropout)
    if recipe.train.gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
    torch.manual_seed(recipe.train.seed)  # initialises the adapter
    return recipe.method.apply(backbone)


def optimizer_for(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """AdamW; vectors (norms, biases) are not decayed."""
    parameters = [parameter for _, parameter in trained(model)]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=train.lr)


def _fit(
    recipe: Recipe,
    run: Run,
    model: nn.Module,
    backbone: PreTrainedModel,
    data: Dataset,
    accelerator: Accelerator,
) -> tuple[State, Ending]:
    """Trains `model`, whose attention is in `backbone`; it ends up with the best weights that validation saw."""
    examples = _with_targets(data.train)
    if not examples:
        raise DataError("no training example has a target: there is nothing to learn")
    checkpoints = Checkpoints(run.checkpoints_path, recipe.train.keep_checkpoints)
    journal = Journal(run.metrics_path, accelerator)
    if recipe.train.tracker != "none":
        accelerator.init_trackers("tracker")
    with packing(backbone) as packed:
        if not packed:
            say(f"{type(backbone).__name__} cannot keep packed examples apart: one example a forward pass")
        optimizer = optimizer_for(model, recipe.train)
        state = checkpoints.resume(model, optimizer)
        journal.forget_after(state.step)
        prepared_model, prepared_optimizer = accelerator.prepare(model, optimizer)
        job = Job(
            train=recipe.train,
            accelerator=accelerator,
            model=prepared_model,
            optimizer=prepared_optimizer,
            objective=ChatObjective(
                packed, recipe.train.micro_batch_tokens, accelerator.device, plain_head(backbone)
            ),
            examples=examples,
            validation=_with_targets(data.validation),
            journal=journal,
            checkpoints=checkpoints,
        )
        state, ending = fit(job, state)
    if ending != "interrupted" and state.best_step not in (None, state.step):
        checkpoints.load_weights(state.best_step, model)
        say(f"kept the weights of step {state.best_step}, whose validation loss was the lowest")
    return state, ending


def _finish(
    run: Run, record: RunRecord, recipe: Recipe, model: nn.Module, codec: ChatCodec, data: Dataset
) -> None:
    """Saves what was trained, proves that it reads back the same, and closes the record."""
    hop = save_trained(run, recipe, model, codec, data, record.base)
    if not hop.passed:
        raise ParityError(f"what lies in {run.folder} is not what was trained: {hop.model_dump_json()}")
    record = record.model_copy(update={"hops": (hop,)})
    write_text(run.card_path, card(record, recipe, data.summary))
    run.write_record(record)
    say(f"{record.status} after {record.steps} steps in {duration(record.seconds)}: {run.folder}")


def _with_targets(examples: list[Example]) -> list[Example]:
    return [example for example in examples if targets(example)]


def _accelerator(recipe: Recipe, run: Run) -> Accelerator:
    tracker = None if recipe.train.tracker == "none" else recipe.train.tracker
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        raise RecipeError(f"train.tracker: {tracker} is not installed; run: pip install 'ptune[trackers]'")
    # `accelerate launch` hands its user's configuration on in the environment. What the recipe decides is passed here,
    # as it would mean something else there: the precision, and the batch, which the loop itself spreads.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # accelerate would take any other device it finds; none has been tried
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=tracker,
        project_dir=run.folder,
    )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != "no" and accelerator.is_main_process:
        say(f"accelerate's mixed precision {asked} is ignored: the recipe's backbone.dtype decides")
    return accelerator


def _record(
    recipe: Recipe, run: Run, base: BaseIdentity, accelerator: Accelerator, command: str
) -> RunRecord:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return RunRecord(
        created=run.record().created if run.record_path.is_file() else now,
        command=command,
        versions=versions(),
        instruction_set=instruction_set(accelerator.device),
        threads=torch.get_num_threads(),
        processes=accelerator.num_processes,
        base=base,
        method=type(recipe.method).__name__,
    )


def _resume_command(command: str, run: Run) -> str:
    """What to paste into a shell to go on."""
    if command.startswith("ptune quickstart") or "--resume" in command.split():
        return command  # quickstart goes on by itself
    again = f"ptune train {shlex.quote(str(run.recipe_path))} --out {shlex.quote(str(run.folder))}"
    return f"{command or again} --resume"
