"""Options from a function's signature: its names, types, defaults and docstring are the command line (tyro)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from ptune.cli.option_values import OPTIONS
from ptune.cli.result import tell_next
from ptune.errors import UsageError

Result = TypeVar("Result")
_COLUMN = re.compile(r"--task\.columns\.([^=]+)(?:=(.*))?", re.DOTALL)


def parse(function: Callable[..., Result], arguments: list[str], command: str) -> Result:
    """Calls `function` with the options in `arguments`; exits with 2 and a message where they do not fit."""
    return called(function, arguments, f"ptune {command}")


def called(
    function: Callable[..., Result], arguments: list[str], program: str, default: Result | None = None
) -> Result:
    """As `parse`, of a program by its whole name. default: of a class, an instance that has what no option says."""
    return tyro.cli(
        function,
        args=arguments,
        prog=program,
        default=default,
        config=(tyro.conf.AvoidSubcommands,),
        registry=OPTIONS,
    )


def named_columns(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """What the options --task.columns.COLUMN NAME say, and the other arguments. Raises: UsageError for one without a name."""
    columns, rest, words = dict[str, str](), list[str](), iter(arguments)
    for word in words:
        named = _COLUMN.fullmatch(word)
        if named is None:
            rest.append(word)
            continue
        name = next(words, None) if named[2] is None else named[2]
        if not name:
            raise UsageError(f"{word} needs the name of a column in your files")
        columns[named[1].replace("-", "_")] = name
    return columns, rest


def cores() -> int:
    """Cores that this process may use: the default number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say_next(command: str) -> None:
    """The command that comes next."""
    tell_next(command)
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
