"""Whether the Python code of an answer passes the row's tests, each answer in a process of its own with limits.

The limits keep accidents small. They are no security boundary: what runs here can read what you can read. Whoever distrusts a
model, or its prompts, trains in a container or a virtual machine without anything of worth in it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptune.rewards.by_column import ByColumn, column_name
from ptune.rewards.reward import Function, RewardError, text_of

COLUMN = "tests"
CONFINED = Path(__file__).with_name("confined.py")
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python|py)3?[ \t]*\r?\n(.*?)(?:^[ \t]*```|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
CANNOT = 3  # exit status of a process that could not be confined
_SPARE_S = 5.0  # beyond its own limit, in which a process ends what it started


@dataclass(frozen=True)
class Limits:
    """Of one answer and all processes that it starts."""

    wall_s: float = 10.0
    cpu_s: int = 10  # of each process
    memory_bytes: int = 1 << 30  # of each process
    processes: int = 16
    file_bytes: int = 16 << 20  # of each file


def code(argument: str | None, limits: Limits = Limits(), at_once: int | None = None) -> Function:
    """The share of tests that the last ```python block of an answer passes: 0 or 1 where the column is one text, such as a row of
    assertions; of a list of texts the part that run through. 0 without a block. argument: the column's name.

    at_once: answers that run at the same time; None: as many as there are cores.
    """
    if sys.platform != "linux":
        raise ValueError(f"its limits are Linux's, and this is {sys.platform}")
    column = column_name(argument, COLUMN)
    workers = at_once or len(os.sched_getaffinity(0))

    def score(completions: Sequence[Any], given: Sequence[Any]) -> list[float | None]:
        rows = [None if value is None else _tests(value, column, at) for at, value in enumerate(given, 1)]
        with ThreadPoolExecutor(workers) as pool:
            return list(
                pool.map(lambda text, tests: _score(text, tests, limits), map(text_of, completions), rows)
            )

    return ByColumn(column, score)


def block_of(text: str) -> str | None:
    """The last Python block of an answer, also one that was cut off."""
    found = _BLOCK.findall(text)
    return found[-1] if found else None


def _tests(value: Any, column: str, at: int) -> list[str]:
    tests = [value] if isinstance(value, str) else value
    if not isinstance(tests, list | tuple) or not tests or not all(isinstance(one, str) for one in tests):
        raise RewardError(
            f"the column {column!r} of answer {at} has to be a text or a list of texts with Python code, and is {value!r:.60}"
        )
    return list(tests)


def _score(text: str, tests: list[str] | None, limits: Limits) -> float | None:
    if tests is None:
        return None
    program = block_of(text)
    return 0.0 if program is None else passed(program, tests, limits) / len(tests)


def passed(program: str, tests: Sequence[str], limits: Limits = Limits()) -> int:
    """How many of the tests run through after the program, each of which sees what the ones before left."""
    token = secrets.token_hex(16)  # without it, an answer could say that all went well
    job = {"program": program, "tests": [*tests], "token": token, **asdict(limits)}
    with tempfile.TemporaryDirectory(prefix="ptune-code-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", str(CONFINED)],
            cwd=folder,
            env={
                "PATH": os.defpath,
                "HOME": folder,
                "TMPDIR": folder,
                "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            said, _ = process.communicate(json.dumps(job).encode(), limits.wall_s + _SPARE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    if process.returncode == CANNOT:
        raise RewardError(
            "this system gives processes no namespaces of their own (unshare), and root's number of processes has no limit"
            " without: train as another user, or let the container create user namespaces"
        )
    if process.returncode > 0:
        raise RewardError(f"{CONFINED.name}, which runs answers, ended with status {process.returncode}")
    lines = {*said.splitlines()}
    return sum(f"{token} {number}".encode() in lines for number in range(len(tests)))
