"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn

from ptune.errors import PtuneError
from ptune.progress import Progress, console, say
from ptune.training.callbacks import call_all
from ptune.training.checkpoint import LR_FACTOR, State, trained
from ptune.training.distributed import whole
from ptune.training.guards.collapse import Levels, Watched
from ptune.training.guards.diagnosis import Alive, NotANumberError, Watch, explained, not_finite
from ptune.training.guards.nothing_learnt import at_the_end, on_the_way
from ptune.training.guards.rollback import collapse_of, levels_of, roll_back
from ptune.training.interrupt import StopSignal
from ptune.training.job import Job
from ptune.training.journal.view import View
from ptune.training.order import Order, step_seed
from ptune.training.rows.packing import Share
from ptune.training.sampler import rewarded
from ptune.training.schedule import factor

Ending = Literal["finished", "stopped early", "interrupted"]


def fit(job: Job, state: State) -> tuple[State, Ending]:
    """Trains from `state` until the last step, early stopping, a callback's request or Ctrl-C.

    The model keeps the weights of the last step that was run.

    Raises: PtuneError if training goes wrong: see `ptune.training.guards.diagnosis` and `ptune.training.guards.rollback`.
    """
    train, order = job.train, _order(job)
    steps = order.steps(train)
    validate_every = order.validate_every(train)
    save_every = train.save_every or validate_every
    view, main = View(job.accelerator.device, job.measure), job.accelerator.is_main_process
    if main:
        say(f"plan: {order.told(train)}")
    bar = Progress("training", steps, done=state.step, delay_s=0.0, enabled=main)
    job = replace(job, underway=bar.underway)
    alive, levels = _alive(job, order, state, steps), levels_of(job)
    state = _begun(job, state, steps)
    with StopSignal() as stop, bar:
        while state.step < steps:
            if train.patience is not None and state.worse >= train.patience:
                return at_the_end(job, state, levels), "stopped early"
            started_s = time.perf_counter()
            now = replace(job, norms=state.norms, rollbacks=len(state.rollbacks), scale=state.scale)
            loss = _explained_step(now, order.batch(state.step), state.step, steps)
            latest, comparable = job.journal.latest, not order.in_order(state.step)
            state = state.after(loss, latest["grad_norm"], latest.get("loss_scale"), comparable=comparable)
            view.see(latest[job.measure])
            bar.advance(note=view.loss(drawn=console.is_terminal), below=view.details(latest))
            dead = alive.trouble(state.step) if alive is not None else None
            trouble = _trouble(job, loss) or dead
            last = state.step == steps
            failing, stopped = _anywhere(job, trouble is not None, stop.requested)
            if failing:
                raise PtuneError(f"step {state.step}: training is {trouble}.\n  {_how_to_go_on(job)}")
            moment = Watched(state.step, steps, state.course, levels, state.best_loss)
            suspicious = train.rollbacks > 0 and moment.suspicious()
            validated = last or state.step % validate_every == 0 or suspicious
            if validated:
                state = validate(job, state.suspected() if suspicious else state, levels)
            enough, paused = _called(job, state.step, steps, validated)
            if enough and not validated:
                state = validate(job, state, levels)
            state = replace(state, seconds=state.seconds + time.perf_counter() - started_s)
            told = collapse_of(job, state, moment) if validated and not enough else None
            if told is not None:
                state, ended = roll_back(job, state, told)
                if ended or stopped or paused:
                    return state, "stopped early" if ended else "interrupted"
                job = replace(job, watch=Watch.of(job.journal.forget_after(state.step)))
                bar.go_back(state.step)
                continue
            if validated:
                state = on_the_way(job, state, moment, validate_every)
            interrupted = (stopped or paused) and not (last or enough)
            if last or enough or interrupted or state.best_step == state.step or state.step % save_every == 0:
                save(job, state)
            if interrupted or (enough and not last):
                return state, "interrupted" if interrupted else "stopped early"
    return at_the_end(job, state, levels), "finished"


def _order(job: Job) -> Order:
    train = job.train
    lengths = [job.objective.size(one) for one in job.examples] if train.order == "short_first" else None
    return Order(len(job.examples), train.batch_size, train.seed, job.mixture, lengths, job.steps_per_batch)


def _begun(job: Job, state: State, steps: int) -> State:
    """Begins the method; returns the state.

    At the start of a run it is saved, so that a training that collapses at once has a place to go back to.
    """
    if job.method is not None:
        job.method.begin(job.accelerator.unwrap_model(job.model), steps)
    if not job.train.rollbacks or state != State() or job.checkpoints.newest() is not None:
        return state
    state = State(safe_step=0)
    save(job, state)
    return state


def _explained_step(job: Job, indices: Sequence[int], step: int, steps: int) -> float:
    """`optimizer_step` on these examples. Raises: PtuneError that says where a value became infinite or NaN."""
    batch: Sequence[Any] = [job.examples[index] for index in indices]
    if job.sampler is not None:
        batch = job.sampler.sample(job.model, batch, step)
    try:
        return optimizer_step(job, batch, step, steps)
    except NotANumberError as error:
        raise _explained(job, error, batch, indices, "training") from None


def optimizer_step(job: Job, batch: Sequence[Any], step: int, steps: int) -> float:
    """One optimiser step; returns the loss per target.

    The gradient is that of the mean over all targets of the batch, however they are divided among forward passes and
    processes. (Data parallelism averages over processes, hence the factor.) Of a model in float16 the loss is scaled, and a
    step whose gradient overflows is computed again (`ptune.training.loss.scale`).
    """
    accelerator, train, started_s = job.accelerator, job.train, time.perf_counter()
    seed = step_seed(train.seed, step, accelerator.process_index)
    torch.manual_seed(seed)
    lr = (
        train.lr
        * LR_FACTOR**job.rollbacks
        * factor(step, steps, train.schedule, warmup=train.warmup, decay=train.decay)
    )
    for group in job.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)  # checkpoints of an older ptune have none
    wanted = sum(map(job.objective.targets, batch)) or 1
    micro_batches = list(job.objective.batches(batch, share(accelerator)))
    scale = job.scale.factor if job.scaled else 1.0
    while True:
        total = _accumulate(job, micro_batches, wanted, scale)
        # After a backward pass: before one, a sharded model may still hold the whole parameters of its last forward pass.
        parameters = [parameter for _, parameter in trained(job.model)]
        length = _unscaled_length(parameters, scale)
        loss, norm = float(accelerator.reduce(total)) / wanted, float(whole(length))
        if math.isfinite(norm) or not math.isfinite(loss) or scale <= 1:
            break
        scale /= 2  # too large for float16: once more
        job.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            raise NotANumberError(name, value, step + 1)
    sampled = {} if job.sampler is None else job.sampler.report()
    spike = job.norms.limit(norm) if train.spike_protection == "zclip" else math.inf
    limit = min(spike, train.max_grad_norm or math.inf)
    if limit < math.inf:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, length)
    job.optimizer.step()
    if job.method is not None:
        job.method.after_update(accelerator.unwrap_model(job.model), step + 1, steps)
    if job.average is not None:
        job.average.follow(step + 1)
    job.optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started_s
    speed = sum(map(job.objective.size, batch)) / seconds
    values = {"loss": loss, "lr": lr, "grad_norm": norm, "targets": wanted, "seconds": seconds}
    values |= {f"{job.objective.unit}_per_s": speed} | ({"spike_cut_to": spike} if spike < math.inf else {})
    values |= sampled
    values |= {"rollbacks": job.rollbacks} if job.rollbacks else {}
    values |= {"loss_scale": scale} if job.scaled else {}
    job.journal.latest.pop("spike_cut_to", None)  # of an earlier step
    job.journal.write(step + 1, **values)
    return loss


def _accumulate(job: Job, micro_batches: Sequence[Any], wanted: float, scale: float) -> torch.Tensor:
    """Adds up `scale` times the gradient of the loss per target, over all passes; returns the sum of their losses."""
    accelerator = job.accelerator
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    job.model.train()
    for number, micro_batch in enumerate(micro_batches, start=1):
        job.underway(f"pass {number} of {len(micro_batches)}")
        last = micro_batch is micro_batches[-1]
        with contextlib.nullcontext() if last else accelerator.no_sync(job.model):
            score = job.objective.score(job.model, micro_batch)
            loss = score.loss / wanted * (accelerator.num_processes * scale)
            penalty = job.method.penalty(accelerator.unwrap_model(job.model)) if last and job.method else None
            accelerator.backward(loss if penalty is None else loss + penalty * scale)
        total += score.loss.detach()
        del score  # frees the rest of its graph before the next pass
    return total


def _unscaled_length(parameters: Sequence[nn.Parameter], scale: float) -> torch.Tensor:
    """Divides the gradients by `scale`, and returns the length of them all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if scale != 1:
        for gradient in gradients:
            gradient.div_(scale)
    return torch.nn.utils.get_total_norm(gradients)


def validate(job: Job, state: State, levels: Levels) -> State:
    """Measures the held-out loss, and has the model answer; returns the state with the best loss updated."""
    if not job.validation:
        return state
    with contextlib.nullcontext() if job.average is None else job.average.in_place():
        loss, accuracy = held_out(job, job.validation)
        if job.samples is not None and math.isfinite(loss):
            job.samples.write(state.step, job.accelerator.unwrap_model(job.model))
    if not math.isfinite(loss):
        error, some = (
            NotANumberError("validation loss", loss, state.step),
            range(min(16, len(job.validation))),
        )
        raise _explained(job, error, [job.validation[index] for index in some], some, "validation")
    right = {} if math.isnan(accuracy) else {"validation_accuracy": accuracy}  # regression has no accuracy
    job.journal.write(state.step, validation_loss=loss, **right)
    best = state.best_loss is None or loss < state.best_loss
    if job.accelerator.is_main_process:
        value = loss if job.measure == "loss" else -loss
        say(f"step {state.step}: validation {job.measure} {value:.4f}{' (best so far)' if best else ''}")
    if best:
        safe = state.step if levels.learnt(state.course.first, loss) else state.safe_step
        return replace(state, best_step=state.step, best_loss=loss, worse=0, safe_step=safe)
    return replace(state, worse=state.worse + 1)


@torch.no_grad()
def held_out(job: Job, examples: Sequence[Any]) -> tuple[float, float]:
    """Loss per target and share of targets predicted correctly, over all processes. Of answers that are rewarded: less the
    mean reward, and no share."""
    job.model.eval()
    if (sampler := rewarded(job.objective)) is not None:
        return -sampler.reward(job.model, examples), math.nan
    sums = torch.zeros(3, dtype=torch.float64, device=job.accelerator.device)  # loss, correct, targets
    for number, batch in enumerate(job.objective.batches(examples, share(job.accelerator)), start=1):
        job.underway(f"validation, pass {number}")
        score = job.objective.score(job.model, batch)
        sums += torch.stack([score.loss.double(), score.correct.double(), sums.new_tensor(score.targets)])
    loss, correct, count = job.accelerator.reduce(sums).tolist()
    return loss / count, correct / count


def share(accelerator: Accelerator) -> Share:
    """This process's share of the forward passes."""
    return Share(accelerator.process_index, accelerator.num_processes)


def save(job: Job, state: State) -> None:
    """Writes a checkpoint. Raises: PtuneError if a weight or the optimiser's state is not finite; nothing is written."""
    model = job.accelerator.unwrap_model(job.model)
    broken = not_finite(trained(model)) or not_finite(
        (f"the optimiser's {key}", value)
        for entry in job.optimizer.state.values()
        for key, value in entry.items()
        if isinstance(value, torch.Tensor)
    )
    if any(_anywhere(job, bool(broken))):
        raise PtuneError(
            f"training diverged: after step {state.step} there are infinite or NaN values in "
            f"{', '.join(broken[:3]) or 'another process'}; lower train.lr.\n  {_how_to_go_on(job)}"
        )
    job.checkpoints.save(state, model, job.optimizer)
    job.accelerator.wait_for_everyone()


def _alive(job: Job, order: Order, state: State, steps: int) -> Alive | None:
    """A check on the loss of the first rows of the first batch; None for a resumed run, or if examples are sampled."""
    if state.step > 0 or job.sampler is not None:
        return None
    batch = [job.examples[index] for index in order.batch(0)]
    rows = next(iter(job.objective.batches(batch, share(job.accelerator))))

    @torch.no_grad()
    def measure() -> float:
        job.model.eval()
        return float(job.accelerator.reduce(job.objective.score(job.model, rows).loss.double()))

    return Alive.from_now(measure, steps, round(job.train.warmup * steps))


def _trouble(job: Job, loss: float) -> str | None:
    """What the step shows of a training that goes wrong. Sampled answers may all be worth the same: then there is no gradient."""
    norm = job.journal.latest["grad_norm"]
    return None if job.sampler is not None and norm == 0 else job.watch.see(loss, norm)


def _explained(
    job: Job, error: NotANumberError, examples: Sequence[Any], indices: Sequence[int], split: str
) -> PtuneError:
    lr, model = job.optimizer.param_groups[0]["lr"], job.accelerator.unwrap_model(job.model)
    return explained(error, model, job.objective, examples, indices, lr, _how_to_go_on(job), split)


def _how_to_go_on(job: Job) -> str:
    newest = job.checkpoints.newest()
    kept = "nothing was saved yet" if not newest else f"the checkpoint of step {newest} is intact"
    return f"{kept}. The same recipe would fail the same way: change it, and train into another --out"


def _called(job: Job, step: int, steps: int, validated: bool) -> list[bool]:
    """Calls the callbacks; returns whether one asks to stop, and whether one asks to pause."""
    if not job.callbacks:
        return [False, False]
    callbacks = job.callbacks if job.accelerator.is_main_process else ()
    wish = call_all(callbacks, step, steps, job.journal.latest, validated and bool(job.validation))
    return _anywhere(job, wish == "stop", wish == "pause")


def _anywhere(job: Job, *flags: bool) -> list[bool]:
    """Whether each flag is set in any process."""
    own = torch.tensor([float(flag) for flag in flags], device=job.accelerator.device)
    return [bool(count > 0) for count in job.accelerator.reduce(own)]
