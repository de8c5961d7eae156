"""Times a few steps of a recipe on this machine: its own model, its own examples, and a part of its validation."""

from __future__ import annotations

import time

from ptune.config.recipe import Recipe
from ptune.progress import Progress
from ptune.training.journal.pace import Length, Pace, length
from ptune.training.loop import held_out, optimizer_step
from ptune.training.rehearsal import Rehearsal, rehearsal

STEPS, ENOUGH_S = 4, 60.0  # steps that are timed after a first one; fewer where they take longer
MOST_HELD_OUT = 64  # validation examples that are timed
MOST_SIZED = 4096  # training examples whose size is looked at


def timed(recipe: Recipe) -> tuple[Length, Pace]:
    """How much a training is, and how long its steps take here. The weights that these steps train are discarded.

    The steps are taken from all over the training, and each counts by its size (tokens, of images their number), since the
    examples of others are longer or shorter.

    Raises: PtuneError, as `ptune.fine_tune.train`; UsageError for reinforcement.
    """
    with rehearsal(recipe) as tried:
        job = tried.job
        found = length(tried.recipe, len(job.examples), validated=bool(job.validation))
        step_s, count = _step_s(tried, found.steps)
        return found, Pace(step_s, _validation_s(tried), f"{count} of its steps, timed")


def _step_s(tried: Rehearsal, steps: int) -> tuple[float, int]:
    """Seconds of an average step, and how many steps that comes from. A first one warms up and does not count."""
    job = tried.job
    sizes, seconds, count = 0, 0.0, 0
    with Progress("timing steps", STEPS + 1, delay_s=0.0) as bar:
        for at in range(STEPS + 1):
            place = at * steps // (STEPS + 1)
            batch = tried.batch(place)
            started_s = time.perf_counter()
            optimizer_step(job, batch, place, steps)  # waits for a card: it reads the loss
            took_s = time.perf_counter() - started_s
            bar.advance()
            slow = took_s + seconds > ENOUGH_S
            if at > 0 or slow:
                sizes, seconds, count = (
                    sizes + sum(map(job.objective.size, batch)),
                    seconds + took_s,
                    count + 1,
                )
            if slow:
                break
    every = max(1, len(job.examples) // MOST_SIZED)
    sampled = [job.objective.size(job.examples[at]) for at in range(0, len(job.examples), every)]
    usual = job.train.batch_size * sum(sampled) / len(sampled)
    return seconds * usual / sizes, count


def _validation_s(tried: Rehearsal) -> float:
    """Seconds of a validation, from a part of its examples, spread over all of them; 0 without any."""
    job = tried.job
    if not job.validation:
        return 0.0
    every = max(1, len(job.validation) // MOST_HELD_OUT)
    part = [job.validation[at] for at in range(0, len(job.validation), every)]
    started_s = time.perf_counter()
    held_out(job, part)
    return (time.perf_counter() - started_s) * len(job.validation) / len(part)
