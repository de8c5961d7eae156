"""A training in several processes on the machines of a cluster: all begin again from a checkpoint where one is lost."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import get_node_ip_address
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ptune.cluster.connection import Share
from ptune.cluster.inside import TRACE, logged
from ptune.errors import FormatError, PtuneError
from ptune.formats.run import Run
from ptune.formats.whole_write import disk_errors, read_json
from ptune.progress import say

Train = Callable[[bool], int]
"""Whether to resume -> the exit code: 0 done, 130 interrupted, 1 or 2 refused with a message."""

MOST_RESTARTS = 3  # without a new checkpoint in between
_LOOK_S = 0.5
_WAITING_S = 15.0  # until it is said that the cluster has no room
_GRACE_S = 10.0  # for the others to end by themselves after one has failed
_INTERRUPTED = 130
_REFUSED = (1, 2)


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: None if it was lost, with its machine or alone."""

    rank: int
    code: int | None
    why: str = ""


def train_on(train: Train, out: Path, resume: bool, given: Share, stop: Callable[[], bool]) -> int:
    """Calls `train` in as many processes as there are workers, and again after losses; returns its exit code.

    out: the run's folder, whose checkpoints all machines see. stop: asked again and again; True ends after a step.
    Raises: PtuneError if a process refuses to go on, or fails again and again.
    """
    run, logs = Run(out), _logs(out, given.workers)
    shown = Shown(logs[0])
    failures, newest = 0, newest_step(run)
    while True:
        ended = _attempt(partial(train, resume), run, logs, given, stop, shown)
        shown.look()
        if ended is None:
            return _INTERRUPTED
        codes = {one.code for one in ended}
        if codes == {0} or (stop() and codes <= {0, _INTERRUPTED}):
            return max(code for code in codes if code is not None)
        if (refused := next((one for one in ended if one.code in _REFUSED), None)) is not None:
            if refused.rank == 0:
                return refused.code or 0  # its message was shown
            raise PtuneError(f"process {refused.rank}: {last_words(logs[refused.rank])}")
        if stop():
            return _INTERRUPTED
        step = newest_step(run)
        failures, newest, resume = (1 if step > newest else failures + 1), max(step, newest), True
        worst = min(ended, key=lambda one: (one.code is not None, one.code in (0, _INTERRUPTED)))
        why = worst.why or f"process {worst.rank} failed: {last_words(logs[worst.rank])}"
        if failures > MOST_RESTARTS:
            raise PtuneError(f"the training failed {failures} times at the same place: {why}")
        place = f"the checkpoint of step {step}" if step else "the start"
        say(f"{why}; all {given.workers} processes begin again from {place}")


def newest_step(run: Run) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    try:
        return int(read_json(run.checkpoints_path / "latest.json")["step"])
    except (FormatError, KeyError):
        return 0


def last_words(log: Path) -> str:
    """The last line of a process's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip().removeprefix("error: ")[:500] if lines else "it said nothing"


class Shown:
    """Repeats what is written to a log on stderr."""

    def __init__(self, log: Path) -> None:
        self._log, self._read_bytes = log, 0

    def look(self) -> None:
        """Shows the lines that have become complete; tracebacks stay in the log."""
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for line in complete.decode("utf-8", errors="replace").splitlines():
            if not line.startswith(TRACE):
                say(line)


def _logs(out: Path, workers: int) -> list[Path]:
    """The empty log of each process, in OUT-ray, a folder beside the run's."""
    logs = [out.with_name(f"{out.name}-ray") / f"process-{rank}.log" for rank in range(workers)]
    with disk_errors(logs[0].parent):
        logs[0].parent.mkdir(parents=True, exist_ok=True)
        for log in logs:
            log.write_bytes(b"")
    return logs


def _attempt(
    train: Callable[[], int],
    run: Run,
    logs: Sequence[Path],
    given: Share,
    stop: Callable[[], bool],
    shown: Shown,
) -> list[Ended] | None:
    """Starts all processes and waits until all have ended; None if it was stopped before there was room for them."""
    bundle = {"CPU": given.cpus, **({"GPU": given.gpus} if given.gpus else {})}
    group = placement_group([bundle] * given.workers, strategy="SPREAD")
    try:
        if not _placed(group, given, stop):
            return None
        on = [
            {
                "num_cpus": given.cpus,
                "num_gpus": given.gpus,
                "max_retries": 0,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, index),
            }
            for index in range(given.workers)
        ]
        try:
            places: list[tuple[str, int]] = ray.get([_place.options(**one).remote() for one in on])
        except RayTaskError:
            raise
        except RayError:  # lost already
            return [Ended(0, None, "a worker was lost")]
        refs = [
            logged.options(**on[rank]).remote(
                train,
                os.getcwd(),
                str(log.absolute()),
                environment,
                str(run.folder.absolute()) if rank == 0 else None,
            )
            for rank, (log, environment) in enumerate(
                zip(logs, environments(places, gpus=given.gpus > 0), strict=True)
            )
        ]
        return _watched(refs, stop, shown)
    finally:
        remove_placement_group(group)


def _placed(group: PlacementGroup, given: Share, stop: Callable[[], bool]) -> bool:
    """Waits until there is room for all processes; False if it was stopped."""
    began_s, said, ready = time.monotonic(), False, group.ready()
    while not ray.wait([ready], timeout=_LOOK_S)[0]:  # `group.wait` takes whole seconds alone
        if stop():
            return False
        if not said and time.monotonic() - began_s > _WAITING_S:
            said = True
            say(
                f"waiting for {given.workers} × {given.cpus} free processors: too many machines are lost or in use; start"
                " others with `ray start`"
            )
    return True


@ray.remote
def _place() -> tuple[str, int]:
    """The address of this machine, and a port that is free on it."""
    with socket.socket() as one:
        one.bind(("", 0))
        return get_node_ip_address(), int(one.getsockname()[1])


def environments(places: Sequence[tuple[str, int]], *, gpus: bool) -> list[dict[str, str]]:
    """The variables by which torch's processes find each other, as `accelerate launch` sets them.

    places: address and free port of each. gpus: Ray shows each process the one GPU that it has, as the first.
    """
    if len(places) == 1:
        return [{}]
    addresses = [address for address, _ in places]
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": "0" if gpus else str(addresses[:rank].count(address)),
            "LOCAL_WORLD_SIZE": str(addresses.count(address)),
            "MASTER_ADDR": places[0][0],
            "MASTER_PORT": str(places[0][1]),
        }
        for rank, address in enumerate(addresses)
    ]


def _watched(refs: Sequence[Any], stop: Callable[[], bool], shown: Shown) -> list[Ended]:
    """Waits for all processes. After the first failure the others have a little time, then they are ended."""
    ended: list[Ended] = []
    waiting, asked, deadline_s = list(refs), False, None
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=_LOOK_S)
        shown.look()
        if stop() and not asked:
            asked = True
            for ref in waiting:
                ray.cancel(ref)
        ended += [_ended(refs.index(ref), ref) for ref in ready]
        if deadline_s is None and any(one.code not in (0, _INTERRUPTED) for one in ended):
            deadline_s = time.monotonic() + _GRACE_S
        if deadline_s is not None and time.monotonic() > deadline_s:
            for ref in waiting:
                ray.cancel(ref, force=True)
    return sorted(ended, key=lambda one: one.rank)


def _ended(rank: int, ref: Any) -> Ended:
    """Raises: PtuneError if the machine does not see the driver's files."""
    try:
        return Ended(rank, ray.get(ref))
    except RayTaskError as error:
        if isinstance(error.cause, PtuneError):
            raise error.cause from None
        raise
    except RayError as error:
        return Ended(rank, None, f"process {rank} was lost ({type(error).__name__})")
