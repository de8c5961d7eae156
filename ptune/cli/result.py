"""`--json`, which every command has: its result as one JSON object on standard output, all it says on standard error.

    {"command": "export", "exit_code": 0, "error": null, "next": "ptune serve bundles/mine", "result": {...}}

A command tells its result with `tell`; it does not know whether somebody asked for it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

FLAG = "--json"
OWN_FORM = ("doctor", "plan")
"""Commands whose --json prints what they found itself."""
WITHOUT = ("serve", "chat", "studio")
"""Commands that have no result: they go on until they are stopped."""


@dataclass
class Told:
    """What a command has told so far. error: why it failed. next: the command that comes next."""

    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    next: str | None = None


_told = Told()


def tell(**result: Any) -> None:
    """Adds fields to the command's result: what JSON has, and paths."""
    _told.result |= result


def tell_next(command: str) -> None:
    """The command that comes next."""
    _told.next = command


def tell_error(message: str) -> None:
    """Why the command failed."""
    _told.error = message


def asked(command: str, arguments: list[str]) -> bool:
    """Whether --json stands among a command's arguments and is not the command's own."""
    return command not in (*OWN_FORM, *WITHOUT) and FLAG in arguments


def as_json(command: str, run: Callable[[], int]) -> int:
    """Runs a command and prints its result. Returns its exit code."""
    global _told
    _told = Told()
    with contextlib.redirect_stdout(sys.stderr):
        code = _code_of(run)
    document = {
        "command": command,
        "exit_code": code,
        "error": _told.error,
        "next": _told.next,
        "result": _told.result,
    }
    print(json.dumps(document, ensure_ascii=False, default=_plain), flush=True)
    return code


def _code_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as error:  # the parser's, which has said on standard error what is wrong
        if error.code:
            tell_error("wrong arguments")
        return error.code if isinstance(error.code, int) else 2


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "item"):  # a number of numpy's
        return value.item()
    raise TypeError(f"a result cannot hold {type(value).__name__}")
