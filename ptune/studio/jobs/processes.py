"""Which process is meant by a number: numbers are given out again, a number with the time it began is not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

NICE = 10


def began(pid: int) -> str | None:
    """When the process began, as the system tells it, and in which life of the machine; None if it runs no more."""
    if Path("/proc/self/stat").exists():
        return _in_proc(pid)
    ps = shutil.which("ps") or "/bin/ps"
    told = subprocess.run([ps, "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout
    state, _, since = told.strip().partition(" ")
    return None if not state or state.startswith("Z") else since.strip()


def runs(pid: int, since: str | None) -> bool:
    """Whether the process that had this number and began then still runs. since: None of one that had ended at once."""
    return since is not None and began(pid) == since


def lower_priority(pid: int) -> None:
    """Lowers a process's priority, where the system lets us: the page and the user's other work come first."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + NICE)


def _in_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # behind the name, which may hold anything: state, parent, …
    if fields[0] in "ZX":  # ended, and not yet asked for by its parent
        return None
    return f"{fields[19]} {_boot()}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
