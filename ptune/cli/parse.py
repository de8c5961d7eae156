"""Options from a function's signature: its names, types, defaults and docstring are the command line (tyro)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

Result = TypeVar("Result")


def parse(function: Callable[..., Result], arguments: list[str], command: str) -> Result:
    """Calls `function` with the options in `arguments`; exits with 2 and a message where they do not fit."""
    return tyro.cli(function, args=arguments, prog=f"ptune {command}", config=(tyro.conf.AvoidSubcommands,))


def cores() -> int:
    """Cores that this process may use: the default number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say_next(command: str) -> None:
    """The command that comes next."""
    print(f"next: {command}")


def shown(path: Path) -> str:
    """A path as the user would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def listed(value: str) -> tuple[str, ...]:
    """The different words of an option whose value is a list with commas."""
    return tuple(dict.fromkeys(word for one in value.split(",") if (word := one.strip())))
