"""One training run: a recipe becomes a run folder."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load, resolve_dtype
from ptune.codecs.chat import ChatCodec
from ptune.data import dataset
from ptune.data.dataset import Dataset
from ptune.errors import ParityError, RecipeError
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import write_text
from ptune.methods.lora import Lora
from ptune.progress import console, duration, say
from ptune.recipe import Recipe, Train
from ptune.tasks.chat.train import ChatObjective, codec_for
from ptune.training.card import card
from ptune.training.checkpoint import Checkpoints, State, trained
from ptune.training.diagnosis import Watch
from ptune.training.distributed import accelerator_for, sharded
from ptune.training.dropout import set_dropout
from ptune.training.environment import changes, instruction_set, versions
from ptune.training.finish import save_trained
from ptune.training.folder import begin, check_folder, check_same_inputs, sweep
from ptune.training.head import plain_head
from ptune.training.journal import Journal
from ptune.training.loop import Ending, Job, fit
from ptune.training.memory import memory_errors
from ptune.training.order import Mixture
from ptune.training.segments import checkpoint_contexts, packing

DONE = ("finished", "stopped early")


def train(recipe: Recipe, out: Path, *, resume: bool = False, command: str = "") -> Run:
    """Trains `recipe` into the folder `out` and returns the run; its status is "interrupted" after Ctrl-C.

    With `resume` it goes on from the newest checkpoint in `out`, to the same bytes as if it had never stopped.
    `command` is what the user typed, quoted for a shell.

    Raises: PtuneError of the kind that fits, where recipe, data, backbone or folder cannot be used.
    """
    run = Run(out)
    accelerator = accelerator_for(recipe, run.folder, _tracker(recipe))
    console.quiet = not accelerator.is_main_process
    recipe = resolved(_as_begun(recipe, run) if resume else recipe, accelerator)
    check_folder(run, recipe, resume)
    if run.record_path.is_file() and run.record().status in DONE:
        say(f"{out} is {run.record().status} already: nothing to resume")
        return run
    _same_threads(run)
    accelerator.wait_for_everyone()  # every process has looked before one of them writes
    # What is going to be sharded need not fit a GPU as a whole: it is read into main memory.
    sharding = accelerator.distributed_type == DistributedType.FSDP
    loaded = load(recipe.backbone, device=torch.device("cpu") if sharding else accelerator.device)
    codec = codec_for(recipe.task, loaded.codec)
    data = dataset.load(recipe.data, recipe.task, codec, recipe.train.seed)
    record = _record(recipe, run, loaded.identity, accelerator, command)
    check_same_inputs(run, record, data.summary)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sweep(run)
        begin(run, record, recipe, data.summary, codec)
    model = applied(recipe, loaded.model, loaded.new_tokens)
    with memory_errors(recipe):
        state, ending = _fit(recipe, run, model, loaded.model, data, accelerator)
    done = {"steps": state.step, "best_step": state.best_step, "seconds": round(state.seconds, 3)}
    record = record.model_copy(update={**done, "status": ending})
    if ending != "interrupted":
        _finish(run, record, recipe, model, codec, data, writes=accelerator.is_main_process)
    elif accelerator.is_main_process:
        run.write_record(record)
        say(f"interrupted after step {state.step}; go on with: {_resume_command(command, run)}")
    accelerator.wait_for_everyone()
    with contextlib.redirect_stdout(sys.stderr):  # trackers speak
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
    if accelerator.num_processes > 1:
        (dtype,) = broadcast_object_list([dtype])  # "auto" tries it out: one process decides for all
    if trains_itself and recipe.backbone.dtype == "bfloat16":
        raise RecipeError(
            f"backbone.dtype 'bfloat16' cannot be trained by {type(recipe.method).__name__}: use float32"
        )
    backbone = recipe.backbone.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
    return recipe.model_copy(update={"backbone": backbone})


def applied(recipe: Recipe, backbone: PreTrainedModel, new_tokens: Sequence[int] = ()) -> nn.Module:
    """The backbone made ready to be trained by the recipe's method; `new_tokens` are the ids of its own new ones."""
    if recipe.train.dropout is not None:
        set_dropout(backbone, recipe.train.dropout)
    if recipe.train.gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
    torch.manual_seed(recipe.train.seed)  # initialises the adapter
    return recipe.method.apply(backbone, new_tokens)


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
    writes = accelerator.is_main_process
    checkpoints = Checkpoints(run.checkpoints_path, recipe.train.keep_checkpoints, writes=writes)
    journal = Journal(run.metrics_path, accelerator)
    _start_tracker(recipe, accelerator)
    with packing(backbone) as packed:
        if not packed:
            say(f"{type(backbone).__name__} cannot keep packed examples apart: one example a forward pass")
        prepared_model, optimizer = accelerator.prepare(model, optimizer_for(model, recipe.train))
        state = checkpoints.resume(model, optimizer)
        watch = Watch()
        for entry in journal.forget_after(state.step):
            if "loss" in entry:
                watch.see(entry["loss"], entry["grad_norm"])
        job = Job(
            train=recipe.train,
            accelerator=accelerator,
            model=prepared_model,
            optimizer=optimizer,
            objective=ChatObjective(
                packed, recipe.train.micro_batch_tokens, accelerator.device, plain_head(backbone)
            ),
            examples=data.train,
            validation=data.validation,
            journal=journal,
            checkpoints=checkpoints,
            watch=watch,
            mixture=Mixture(data.parts, recipe.data.weights) if recipe.data.weights else None,
        )
        state, ending = fit(job, state)
    if ending != "interrupted" and state.best_step not in (None, state.step):
        checkpoints.load_weights(state.best_step, model)
        say(f"kept the weights of step {state.best_step}, whose validation loss was the lowest")
    return state, ending


def _finish(
    run: Run,
    record: RunRecord,
    recipe: Recipe,
    model: nn.Module,
    codec: ChatCodec,
    data: Dataset,
    *,
    writes: bool,
) -> None:
    """Saves what was trained, proves that it reads back the same, and closes the record.

    Every process takes part where the model is sharded over them; one of them writes.
    """
    if not writes and not sharded(model):
        return
    hop = save_trained(run, recipe, model, codec, data, record.base, writes=writes)
    if not writes:
        return
    if not hop.passed:
        raise ParityError(f"what lies in {run.folder} is not what was trained: {hop.model_dump_json()}")
    record = record.model_copy(update={"hops": (hop,)})
    write_text(run.card_path, card(record, recipe, data.summary))
    run.write_record(record)
    say(f"{record.status} after {record.steps} steps in {duration(record.seconds)}: {run.folder}")


def _tracker(recipe: Recipe) -> str | None:
    """Its name in accelerate. Raises: RecipeError where it is not installed."""
    tracker = recipe.train.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise RecipeError(f"train.tracker: {tracker} is not installed; run: pip install 'ptune[trackers]'")
    return None if tracker == "none" else tracker


def _start_tracker(recipe: Recipe, accelerator: Accelerator) -> None:
    """TensorBoard writes into the run's folder tracker/; trackio into its own database, under the recipe's name."""
    if recipe.train.tracker == "tensorboard":
        accelerator.init_trackers("tracker")
    elif recipe.train.tracker == "trackio":
        with contextlib.redirect_stdout(sys.stderr):  # it speaks, and stdout is for results
            accelerator.init_trackers(recipe.name, config=_flat(recipe.train.model_dump(mode="json")))


def _flat(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _as_begun(recipe: Recipe, run: Run) -> Recipe:
    """The dtype that "auto" meant when the run began: here and now it might mean another."""
    if recipe.backbone.dtype != "auto" or not run.recipe_path.is_file():
        return recipe
    dtype = Recipe.load(run.recipe_path).backbone.dtype
    return recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"dtype": dtype})})


def _same_threads(run: Run) -> None:
    """Sums are split over threads: another number of them gives other bits."""
    if not run.record_path.is_file():
        return
    before, here = run.record().threads, torch.get_num_threads()
    if before not in (0, here):
        torch.set_num_threads(before)
        say(
            f"goes on with {before} threads, as it began (here it would be {here}): the same bits need the same number"
        )


def _record(
    recipe: Recipe, run: Run, base: BaseIdentity, accelerator: Accelerator, command: str
) -> RunRecord:
    """run.json at the start; at a resume it keeps when the run began and adds what has changed since.

    Those changes are said: the run goes on, but to other bits.
    """
    record = RunRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        instruction_set=instruction_set(accelerator.device),
        threads=torch.get_num_threads(),
        processes=accelerator.num_processes,
        distributed=accelerator.distributed_type.value,
        base=base,
        method=type(recipe.method).__name__,
    )
    if not run.record_path.is_file():
        return record
    before = run.record()
    if found := changes(before, record):
        say(f"goes on, but not to the same bits: {', '.join(found)}")
    return record.model_copy(update={"created": before.created, "changes": (*before.changes, *found)})


def _resume_command(command: str, run: Run) -> str:
    """What to paste into a shell to go on."""
    if command.startswith("ptune quickstart") or "--resume" in command.split():
        return command  # quickstart goes on by itself
    again = f"ptune train {shlex.quote(str(run.recipe_path))} --out {shlex.quote(str(run.folder))}"
    return f"{command or again} --resume"
