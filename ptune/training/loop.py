"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from ptune.codecs.chat import Example
from ptune.errors import PtuneError
from ptune.progress import Progress, say
from ptune.recipe import Train
from ptune.training.checkpoint import Checkpoints, State, trained
from ptune.training.interrupt import StopSignal
from ptune.training.journal import Journal
from ptune.training.objective import Objective
from ptune.training.order import Order, step_seed
from ptune.training.packing import Share, targets
from ptune.training.schedule import factor

Ending = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class Job:
    """What the loop works on and with."""

    train: Train
    accelerator: Accelerator
    model: nn.Module  # prepared by the accelerator
    optimizer: torch.optim.Optimizer  # likewise
    objective: Objective
    examples: Sequence[Example]  # each has a target
    validation: Sequence[Example]
    journal: Journal
    checkpoints: Checkpoints


def fit(job: Job, state: State) -> tuple[State, Ending]:
    """Trains from `state` until the last step, early stopping or Ctrl-C; the model keeps the weights it ends with.

    Raises: PtuneError where the loss is no longer a number.
    """
    train, order = job.train, Order(len(job.examples), job.train.batch_size, job.train.seed)
    steps = order.steps(train)
    validate_every = train.validate_every or max(1, len(job.examples) // train.batch_size // 4)
    save_every = train.save_every or validate_every
    bar = Progress("training", steps, done=state.step, delay_s=0.0, enabled=job.accelerator.is_main_process)
    with StopSignal() as stop, bar:
        while state.step < steps:
            if train.patience is not None and state.worse >= train.patience:
                return state, "stopped early"
            started_s = time.perf_counter()
            batch = [job.examples[index] for index in order.batch(state.step)]
            loss = optimizer_step(job, batch, state.step, steps)
            state = replace(state, step=state.step + 1)
            bar.advance(note=f"loss {loss:.4g}")
            last = state.step == steps
            if last or state.step % validate_every == 0:
                state = validate(job, state)
            state = replace(state, seconds=state.seconds + time.perf_counter() - started_s)
            interrupted = _anywhere(job, stop.requested) and not last
            if last or interrupted or state.best_step == state.step or state.step % save_every == 0:
                save(job, state)
            if interrupted:
                return state, "interrupted"
    return state, "finished"


def optimizer_step(job: Job, batch: Sequence[Example], step: int, steps: int) -> float:
    """One optimiser step; returns the loss a target.

    The gradient is that of the mean over all targets of the batch, however they are spread over forward passes and
    processes. (Data parallelism averages over processes, hence the factor.)
    """
    accelerator, train, started_s = job.accelerator, job.train, time.perf_counter()
    torch.manual_seed(step_seed(train.seed, step, accelerator.process_index))
    lr = train.lr * factor(step, steps, train.schedule, warmup=train.warmup, decay=train.decay)
    for group in job.optimizer.param_groups:
        group["lr"] = lr
    wanted = sum(targets(example) for example in batch)
    micro_batches = list(job.objective.batches(batch, share(accelerator)))
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    job.model.train()
    for micro_batch in micro_batches:
        last = micro_batch is micro_batches[-1]
        with contextlib.nullcontext() if last else accelerator.no_sync(job.model):
            score = job.objective.score(job.model, micro_batch)
            accelerator.backward(score.loss / wanted * accelerator.num_processes)
        total += score.loss.detach()
    norm = accelerator.clip_grad_norm_([p for _, p in trained(job.model)], train.max_grad_norm or math.inf)
    loss = float(accelerator.reduce(total)) / wanted
    _check_number("loss", loss, step + 1)
    _check_number("gradient norm", float(norm), step + 1)
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started_s
    speed = sum(map(len, batch)) / seconds
    values = {"loss": loss, "lr": lr, "grad_norm": float(norm), "tokens_per_s": speed, "targets": wanted}
    job.journal.write(step + 1, **values, seconds=seconds)
    return loss


def validate(job: Job, state: State) -> State:
    """Measures the held-out loss; returns the state that knows whether it is the best so far."""
    if not job.validation:
        return state
    loss, accuracy = held_out(job, job.validation)
    _check_number("validation loss", loss, state.step)
    job.journal.write(state.step, validation_loss=loss, validation_accuracy=accuracy)
    best = state.best_loss is None or loss < state.best_loss
    if job.accelerator.is_main_process:
        say(f"step {state.step}: validation loss {loss:.4f}{' (best so far)' if best else ''}")
    if best:
        return replace(state, best_step=state.step, best_loss=loss, worse=0)
    return replace(state, worse=state.worse + 1)


@torch.no_grad()
def held_out(job: Job, examples: Sequence[Example]) -> tuple[float, float]:
    """Loss a target and share of targets predicted, over all processes."""
    job.model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=job.accelerator.device)  # loss, correct, targets
    for batch in job.objective.batches(examples, share(job.accelerator)):
        score = job.objective.score(job.model, batch)
        sums += torch.stack([score.loss.double(), score.correct.double(), sums.new_tensor(score.targets)])
    loss, correct, count = job.accelerator.reduce(sums).tolist()
    return loss / count, correct / count


def share(accelerator: Accelerator) -> Share:
    """Which of the forward passes are this process's own."""
    return Share(accelerator.process_index, accelerator.num_processes)


def save(job: Job, state: State) -> None:
    """Writes a checkpoint, from the main process alone."""
    if job.accelerator.is_main_process:
        job.checkpoints.save(state, job.accelerator.unwrap_model(job.model), job.optimizer)
    job.accelerator.wait_for_everyone()


def _check_number(name: str, value: float, step: int) -> None:
    """Raises: PtuneError where training has diverged."""
    if not math.isfinite(value):
        raise PtuneError(f"training diverged: the {name} of step {step} is {value}; lower train.lr")


def _anywhere(job: Job, flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(job.accelerator.reduce(torch.tensor(float(flag), device=job.accelerator.device)) > 0)
