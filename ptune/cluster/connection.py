"""Joins a Ray cluster for the length of a command, and shares its processors among workers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray

from ptune.errors import PtuneError, UsageError

_ANSWER_S = 5.0  # Ray itself tries for two minutes, and then ends the process
_RAYS_OWN = ("auto", "local")


@dataclass(frozen=True)
class Share:
    """What each of `workers` processes has for itself."""

    workers: int
    cpus: int
    gpus: int = 0


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Joins the cluster at `address`, and stops this command's workers in the end.

    address: HOST:PORT; "auto" = that of RAY_ADDRESS or the cluster that runs here; "local" = this machine alone, for the block.
    Raises: UsageError, PtuneError if there is no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of its own future
    _check(address)
    # What Ray reports of lost machines, with their logs, would land on stdout; what matters is said by the jobs.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PtuneError(f"cannot join the Ray cluster: {reason}") from None
        try:
            yield
        finally:
            ray.shutdown()


def share(workers: int | None) -> Share:
    """Shares the connected cluster among workers; default: one for each machine.

    Raises: UsageError, PtuneError if there are fewer processors than workers.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    wanted = sum(count > 0 for count in cpus) if workers is None else workers
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    return Share(wanted, cpus_each(cpus, wanted), 1 if gpus >= wanted > 0 else 0)


def cpus_each(machines: Sequence[int], workers: int) -> int:
    """The most processors that each worker can have. machines: the processors of each.

    Raises: UsageError if `workers` is less than 1; PtuneError if there are fewer processors.
    """
    if workers < 1 and any(machines):
        raise UsageError(f"--workers must be at least 1 (is {workers})")
    for each in range(max(machines, default=0), 0, -1):
        if sum(cpus // each for cpus in machines) >= workers:
            return each
    raise PtuneError(
        f"the Ray cluster has {sum(machines)} processors for {workers} workers: start machines with `ray start`,"
        " or ask for fewer --workers"
    )


def _check(address: str) -> None:
    """Finds out in seconds whether anything listens. Raises: UsageError, PtuneError."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address in _RAYS_OWN:
        return
    if "://" in address:
        raise UsageError(
            f"--ray {address}: start the command on one of the cluster's machines, with HOST:PORT of `ray start`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--ray {address}: an address is HOST:PORT, as in 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except OSError as error:
        raise PtuneError(f"no Ray cluster answers at {address}: {error}") from None
