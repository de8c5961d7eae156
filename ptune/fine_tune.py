"""Fine-tuning: a recipe becomes a run folder. Load, examine, plan, train, save, read back."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load, load_codec
from ptune.codecs.chat import ChatCodec
from ptune.data import dataset
from ptune.data.dataset import Dataset
from ptune.doctor.doctor import Doctor, judge
from ptune.errors import ParityError
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import read_json, write_text
from ptune.planning.gate import planned
from ptune.progress import console, duration, say
from ptune.recipe import Recipe
from ptune.tasks.chat.train import ChatObjective, codec_for
from ptune.training.card import card
from ptune.training.checkpoint import Checkpoints, State
from ptune.training.diagnosis import Watch
from ptune.training.distributed import accelerator_for, check_same_step, decided_by_one, sharded
from ptune.training.finish import save_trained
from ptune.training.folder import begin, check_folder, check_same_inputs, locked, sweep
from ptune.training.head import plain_head
from ptune.training.journal import Journal
from ptune.training.loop import Ending, Job, fit
from ptune.training.memory import memory_errors
from ptune.training.order import Mixture
from ptune.training.preparation import applied, optimizer_for, resolved
from ptune.training.record import as_begun, record_of, resume_command, same_threads
from ptune.training.segments import packing
from ptune.training.trackers import start_tracker, tracker_of

DONE = ("finished", "stopped early")


def train(recipe: Recipe, out: Path, *, resume: bool = False, command: str = "") -> Run:
    """Trains `recipe` into the folder `out` and returns the run; its status is "interrupted" after Ctrl-C.

    With `resume` it goes on from the newest checkpoint in `out`, to the same bytes as if it had never stopped.
    `command` is what the user typed, quoted for a shell.

    Raises: PtuneError of the kind that fits, where recipe, data, backbone or folder cannot be used.
    """
    run = Run(out)
    accelerator = accelerator_for(recipe, run.folder, tracker_of(recipe))
    console.quiet = not accelerator.is_main_process
    recipe = resolved(as_begun(recipe, run) if resume else recipe, accelerator)
    check_folder(run, recipe, resume)
    if run.record_path.is_file() and run.record().status in DONE:
        say(f"{out} is {run.record().status} already: nothing to resume")
        return run
    same_threads(run)
    accelerator.wait_for_everyone()  # every process has looked before one of them writes
    with locked(run) if accelerator.is_main_process else contextlib.nullcontext():
        _train(recipe, run, accelerator, command)
    accelerator.wait_for_everyone()
    with contextlib.redirect_stdout(sys.stderr):  # trackers speak
        accelerator.end_training()
    return run


def _train(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> None:
    """From data to a finished run folder, or to one that can be resumed."""
    plain_codec = load_codec(recipe.backbone)
    codec = codec_for(recipe.task, plain_codec)
    data = _examined(recipe, codec, run, accelerator, command)
    if not run.record_path.is_file():
        asked, recipe = recipe, _planned(recipe, data, accelerator)
        data = data if recipe.task == asked.task else _examined(recipe, codec, run, accelerator, command)
    # What is going to be sharded need not fit a GPU as a whole: it is read into main memory.
    sharding = accelerator.distributed_type == DistributedType.FSDP
    device = torch.device("cpu") if sharding else accelerator.device
    loaded = load(recipe.backbone, device=device, codec=plain_codec)
    record = record_of(recipe, run, loaded.identity, accelerator, command)
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
        say(f"interrupted after step {state.step}; go on with: {resume_command(command, run)}")


def _examined(recipe: Recipe, codec: ChatCodec, run: Run, accelerator: Accelerator, command: str) -> Dataset:
    """The recipe's data with the doctor's findings in its summary; a run that goes on was examined when it began.

    Raises: DataError where the data cannot be used, or would train a wrong model.
    """
    task, seed = recipe.task, recipe.train.seed
    if run.record_path.is_file():
        data = dataset.load(recipe.data, task, codec, seed)
        return replace(
            data, summary={**data.summary, "findings": read_json(run.data_path).get("findings", [])}
        )
    examination = command.replace("ptune train", "ptune doctor", 1)
    examined: list[
        Dataset
    ] = []  # in the process that examines; where the set is large, its tokens stay for the others

    def examine() -> list[dict[str, Any]]:
        doctor = Doctor(task, codec)
        examined.append(dataset.load(recipe.data, task, codec, seed, examiner=doctor))
        findings = doctor.findings()
        judge(findings, examination if examination.startswith("ptune doctor") else "ptune doctor RECIPE")
        return [finding.described() for finding in findings]

    found = decided_by_one(accelerator, examine)
    data = examined[0] if examined else dataset.load(recipe.data, task, codec, seed)
    return replace(data, summary={**data.summary, "findings": found})


def _planned(recipe: Recipe, data: Dataset, accelerator: Accelerator) -> Recipe:
    """The recipe to train: one that fits into memory. One process decides for all.

    Raises: RecipeError where it does not fit.
    """
    several_on_cpu = accelerator.num_processes > 1 and accelerator.device.type == "cpu"
    if several_on_cpu or accelerator.distributed_type == DistributedType.FSDP:
        say("plan: made for one process or one GPU each; the memory of this launch is not predicted")
        return recipe
    lengths, validation = (split.lengths.tolist() for split in (data.train, data.validation))
    return decided_by_one(accelerator, lambda: planned(recipe, lengths, validation)[0])


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
    start_tracker(recipe, accelerator)
    with packing(backbone) as packed:
        if not packed:
            say(f"{type(backbone).__name__} cannot keep packed examples apart: one example a forward pass")
        prepared_model, optimizer = accelerator.prepare(model, optimizer_for(model, recipe.train))
        state = checkpoints.resume(model, optimizer)
        check_same_step(accelerator, state.step)
        checkpoints.forget_after(state.step)
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
