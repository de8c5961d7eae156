"""Fine-tuning, from a recipe to a run folder: read the data, load the backbone, train, save, read back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.errors import ParityError
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import write_text
from ptune.kinds import imported
from ptune.methods.peft_method import PeftMethod
from ptune.progress import console, duration, say
from ptune.training.average import Average
from ptune.training.calibration import begin_beside_original, calibrate, check_original
from ptune.training.callbacks import Callback
from ptune.training.checkpoint import Checkpoints, State, trained
from ptune.training.distributed import accelerator_for, check_same_step, sharded
from ptune.training.ending import told as how_it_ended
from ptune.training.folder import begin, check_folder, check_same_inputs, locked, sweep
from ptune.training.gpu import repeatable
from ptune.training.guards.diagnosis import Watch
from ptune.training.job import Job
from ptune.training.journal.card import card
from ptune.training.journal.metrics_log import Journal
from ptune.training.journal.samples import Samples, WritesText
from ptune.training.journal.trackers import start_tracker, tracker_of
from ptune.training.layers.batch_norm import learnt_moments
from ptune.training.loop import Ending, fit
from ptune.training.memory.out_of_memory import memory_errors
from ptune.training.order import Order, mixture_of
from ptune.training.preparation import applied, how_served, prepared, resolved
from ptune.training.record import as_begun, record_of, resume_command, same_threads
from ptune.training.rows.segments import attention_kernel
from ptune.training.sampler import reusing, sampler_of
from ptune.training.work import Base, Work

DONE = ("finished", "stopped early")


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, command: str = "", callbacks: Sequence[Callback] = ()
) -> Run:
    """Trains `recipe` into the folder `out` and returns the run; its status is "interrupted" after Ctrl-C.

    resume: continue from the newest checkpoint in `out`, to the same bytes as an uninterrupted run.
    command: the user's command line, quoted for a shell.
    callbacks: called after each step; they may end the run.

    Raises: PtuneError (a subclass) where the recipe, data, backbone or folder cannot be used.
    """
    run = Run(out)
    accelerator = accelerator_for(recipe, run.folder, tracker_of(recipe))
    console.quiet = not accelerator.is_main_process
    recipe = resolved(as_begun(recipe, run) if resume else recipe, accelerator)
    check_original(recipe)
    check_folder(run, recipe, resume)
    if run.record_path.is_file() and run.record().status in DONE:
        say(f"{out} is {run.record().status} already: nothing to resume")
        return run
    same_threads(run)
    accelerator.wait_for_everyone()  # all processes check the folder before one of them writes to it
    with (
        locked(run) if accelerator.is_main_process else contextlib.nullcontext(),
        repeatable(accelerator.device) as unrepeatable,
    ):
        _train(recipe, run, accelerator, command, callbacks, unrepeatable)
    accelerator.wait_for_everyone()
    with contextlib.redirect_stdout(sys.stderr):  # trackers print
        accelerator.end_training()
    return run


def _train(
    recipe: Recipe,
    run: Run,
    accelerator: Accelerator,
    command: str,
    callbacks: Sequence[Callback],
    unrepeatable: Sequence[str],
) -> None:
    """Trains, and leaves either a finished run folder or one that can be resumed.

    unrepeatable: see `repeatable`; complete when training has ended.
    """
    work: Work = imported(task_of(recipe.task).work)(recipe, run, accelerator, command)
    recipe = work.recipe
    if (told := how_served(recipe)) is not None:
        say(told)
    # A model that will be sharded need not fit one GPU, so it is read into main memory.
    sharding = accelerator.distributed_type == DistributedType.FSDP
    base = work.load(torch.device("cpu") if sharding else accelerator.device)
    order = Order(
        len(work.data.train), recipe.train.batch_size, recipe.train.seed, each=recipe.task.steps_per_batch
    )
    record = record_of(recipe, run, base.identity, accelerator, command)
    record = record.model_copy(update={"planned_steps": order.steps(recipe.train)})
    check_same_inputs(run, record, work.data.summary)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sweep(run)
        begin(run, record, recipe, work.data.summary, work.save_codec)
    model = applied(recipe, base.model, base.new_tokens, base.head)
    begin_beside_original(recipe, model, work)
    with memory_errors(recipe):
        state, ending, attention, measure = _fit(run, model, base, work, accelerator, callbacks)
    done = {"steps": state.step, "best_step": state.best_step, "seconds": round(state.seconds, 3)}
    told = how_it_ended(recipe.train, state, ending, record.planned_steps, measure)
    if told:
        say(told)
    seen = {"ending": told, "rollbacks": state.rollbacks, "nothing_learnt": state.nothing_learnt}
    if unrepeatable:
        say(f"this GPU has no repeatable form of {', '.join(unrepeatable)}: a resumed run gives other bits")
    ran = {"attention": attention, "unrepeatable": tuple(unrepeatable)}
    record = record.model_copy(update={**done, **seen, **ran, "status": ending})
    if ending != "interrupted":
        _finish(run, record, model, work, writes=accelerator.is_main_process)
    elif accelerator.is_main_process:
        run.write_record(record)
        say(f"interrupted after step {state.step}; go on with: {resume_command(command, run)}")


def _fit(
    run: Run,
    model: nn.Module,
    base: Base,
    work: Work,
    accelerator: Accelerator,
    callbacks: Sequence[Callback],
) -> tuple[State, Ending, str, str]:
    """Trains `model`, which contains the base, and leaves it with the weights of the best validation.

    Also returns the name of the attention kernel that ran, and what was validated: loss or reward.
    """
    recipe, writes = work.recipe, accelerator.is_main_process
    journal = Journal(run.metrics_path, accelerator)
    start_tracker(recipe, run, accelerator)
    whole = not sharded(base.model) and accelerator.distributed_type != DistributedType.FSDP
    answering = work.answering(base.model) if isinstance(work, WritesText) and whole else None
    samples = Samples(run.samples_path, answering, writes=writes)
    with work.objective(base.model, accelerator.device) as objective:
        calibrate(recipe, model, objective, work.data)
        prepared_model, optimizer = prepared(accelerator, model, recipe, base.head)
        followed = [*trained(model), *learnt_moments(model)]
        average = None if recipe.train.ema is None else Average(followed, recipe.train.ema)
        folder, keep, reused = run.checkpoints_path, recipe.train.keep_checkpoints, reusing(objective)
        checkpoints = Checkpoints(folder, keep, writes=writes, average=average, sampler=reused)
        state = checkpoints.resume(model, optimizer)
        check_same_step(accelerator, state.step)
        checkpoints.forget_after(state.step)
        watch = Watch.of(journal.forget_after(state.step))
        samples.forget_after(state.step)
        job = Job(
            train=recipe.train,
            accelerator=accelerator,
            model=prepared_model,
            optimizer=optimizer,
            objective=objective,
            examples=work.data.train,
            validation=work.data.validation,
            journal=journal,
            checkpoints=checkpoints,
            watch=watch,
            mixture=mixture_of(work.data.parts, recipe.data.weights),
            callbacks=callbacks,
            scaled=recipe.backbone.dtype == "float16",
            method=recipe.method if isinstance(recipe.method, PeftMethod) else None,
            average=average,
            sampler=sampler_of(objective),
            steps_per_batch=recipe.task.steps_per_batch,
            samples=samples,
        )
        attention = attention_kernel(base.model)
        state, ending = fit(job, state)
    if ending != "interrupted" and state.best_step not in (None, state.step):
        checkpoints.load_weights(state.best_step, model)
    if ending != "interrupted" and average is not None:
        average.settle()
        say(f"kept their running average (train.ema {average.decay:g}) instead of the last step's weights")
    return state, ending, attention, job.measure


def _finish(run: Run, record: RunRecord, model: nn.Module, work: Work, *, writes: bool) -> None:
    """Saves the trained weights, proves that they read back the same, and completes run.json.

    Where the model is sharded, every process takes part and one writes.
    """
    if not writes and not sharded(model):
        return
    hop = work.save(run, model, record.base, writes=writes)
    if not writes:
        return
    if not hop.passed:
        raise ParityError(
            f"the weights saved in {run.folder} differ from those that were trained: {hop.model_dump_json()}"
        )
    record = record.model_copy(update={"hops": (hop,)})
    write_text(run.card_path, card(record, work.recipe, work.data.summary))
    run.write_record(record)
    say(f"{record.status} after {record.steps} steps in {duration(record.seconds)}: {run.folder}")
