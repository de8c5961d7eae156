"""Runs one answer's code with limits, and ends every process that it left: python -I confined.py < JOB. Imports nothing of ptune.

The job is an object of JSON: program, tests, token and the fields of `ptune.rewards.code.Limits`. For each test that ran through,
a line TOKEN NUMBER is written. The exit status is CANNOT where nothing was run, as nothing would bound the number of processes.

Three processes: this one watches; its child makes namespaces; and that one's child, the first of its namespace of processes,
runs the code. The kernel ends a namespace with its first process, whatever the code has started, and at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any, NoReturn

CANNOT = 3
SUBREAPER, DIES_WITH_PARENT = 36, 1  # of prctl
NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000  # of unshare
MOST_SAID = 1 << 20  # bytes that are read of the code's process
POLL_S = 0.01


def main() -> int:
    """Writes what the code's process said."""
    job = json.load(sys.stdin.buffer)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SUBREAPER, 1, 0, 0, 0)  # orphans become children of this process, whatever session they are in
    said, says = os.pipe()
    child = os.fork()
    if not child:
        os.close(said)
        confine(job, libc)
        run(job, says)
    os.close(says)
    os.set_blocking(said, False)
    text, status = watched(child, said, job)
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return status


def confine(job: dict[str, Any], libc: ctypes.CDLL) -> None:
    """Takes the network, the terminal and the means away from this process and all that it starts."""
    libc.prctl(DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    os.nice(10)
    if in_namespaces(libc):
        if first := os.fork():
            os.waitpid(first, 0)
            os._exit(0)
        libc.prctl(DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    elif os.getuid() == 0:  # RLIMIT_NPROC does not hold root
        os._exit(CANNOT)
    for limit, value in (
        (resource.RLIMIT_CPU, job["cpu_s"]),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, threads_of_user() + job["processes"]),
    ):
        with contextlib.suppress(ValueError, OSError):  # where it is lower already
            resource.setrlimit(limit, (value, value))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def in_namespaces(libc: ctypes.CDLL) -> bool:
    """Leaves the network and the other processes, as the same user. Returns whether the system lets this process do so."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_PROCESSES | NEW_NETWORK):
        return False
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with contextlib.suppress(OSError), open(f"/proc/self/{file}", "w", encoding="ascii") as written:
            written.write(text)
    return True


def threads_of_user() -> int:
    """That count in RLIMIT_NPROC, which is the user's and not the process's."""
    user, count = os.getuid(), 0
    for process in os.listdir("/proc"):
        if process.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{process}").st_uid == user:
                    count += len(os.listdir(f"/proc/{process}/task"))
    return count


def run(job: dict[str, Any], says: int) -> NoReturn:
    """Runs the program, then test after test in what it defined."""
    token, scope = job.pop("token"), {"__name__": "__main__"}
    tests = job.pop("tests")
    try:
        with contextlib.suppress(SystemExit):  # after what it defined, as programs end that are called
            exec(compile(job.pop("program"), "answer.py", "exec"), scope)  # what this is for  # noqa: S102  # nosec B102
        for number, test in enumerate(tests):
            try:
                exec(compile(test, f"test_{number}.py", "exec"), scope)  # noqa: S102  # nosec B102
            except (Exception, SystemExit):  # that one failed; others may pass  # noqa: S112  # nosec B112
                continue
            os.write(says, f"{token} {number}\n".encode())
    except BaseException:  # noqa: S110  the code may raise anything; nobody reads it
        pass
    finally:
        os._exit(0)


def watched(child: int, said: int, job: dict[str, Any]) -> tuple[bytes, int]:
    """What the code's process said until it ended, or had to be ended; and the exit status."""
    until_s, text, status = time.monotonic() + job["wall_s"], b"", 0
    while time.monotonic() < until_s and len(descendants()) <= job["processes"] + 1:
        text += read(said, MOST_SAID - len(text))
        done, found = os.waitpid(-1, os.WNOHANG)  # also of orphans
        if done == child:
            status = CANNOT if os.waitstatus_to_exitcode(found) == CANNOT else 0
            break
        if not done:
            time.sleep(POLL_S)
    end_all()
    return text + read(said, MOST_SAID - len(text)), status


def read(said: int, most: int) -> bytes:
    try:
        return os.read(said, most) if most else b""
    except BlockingIOError:
        return b""


def descendants() -> list[int]:
    """All processes that began with the code, parents before their children, also in sessions of their own."""
    children: dict[int, list[int]] = {}
    for process in os.listdir("/proc"):
        if process.isdigit():
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file,
            ):
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(process))
    found, at = list(children.get(os.getpid(), [])), 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found


def end_all() -> None:
    """Kills all of them, again and again until there is none."""
    while True:
        for process in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(POLL_S / 10)


if __name__ == "__main__":
    sys.exit(main())
