"""Options of a command that goes on on a Ray cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from ptune.cli.ray_address import RayAddress
from ptune.errors import UsageError


@dataclass(frozen=True)
class _RayServeFlags:
    """Serving on several machines."""

    ray: RayAddress = None
    """Serve on Ray: bare on this machine, else on the cluster at this address (auto: the one that runs here)."""
    replicas: str = "1"
    """Copies of the model on Ray, as in 4; or the fewest and the most, as in 1:8, between which the load decides."""
    replica_cpus: float = 1
    """Cores of each copy on Ray."""
    write_config: Path | None = None
    """Write a config file for `serve deploy` and `serve run` of Ray, and do not serve."""

    def bounds(self) -> tuple[int, int | None]:
        """The fewest replicas, and the most where they are not always as many. Raises: UsageError."""
        found = re.fullmatch(r"([1-9]\d{0,4})(?::([1-9]\d{0,4}))?", self.replicas)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise UsageError(f"--replicas {self.replicas!r}: a number is needed, or two as in 1:8")
        return int(found[1]), int(found[2]) if found[2] else None

    def cores(self) -> float:
        """Of each copy; 0 takes any machine, however busy. Raises: UsageError."""
        if not 0 <= self.replica_cpus < 1e6:
            raise UsageError(f"--replica-cpus must be 0 or more (is {self.replica_cpus})")
        return self.replica_cpus


RayServeFlags = Annotated[_RayServeFlags, OmitArgPrefixes]
NO_RAY = _RayServeFlags()
