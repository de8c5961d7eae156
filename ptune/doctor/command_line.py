"""Commands that a user could type next, made of the one that was typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Literal

Follows = Literal["nothing", "one", "perhaps one", "several"]
"""The words that belong to an option behind it."""

_OF_TRAIN: dict[str, Follows] = {
    "--out": "one",
    "--workers": "one",
    "--ray": "perhaps one",
    "--resume": "nothing",
    "--dry-run": "nothing",
}
"""Options of `ptune train` that are no fields of the recipe."""


def doctor_command(command: str) -> str:
    """The command that shows the findings on the data of a training `command`."""
    if not command.startswith("ptune train "):
        return command if command.startswith("ptune doctor ") else "ptune doctor RECIPE"
    words = shlex.split(command.removeprefix("ptune train "))
    return f"ptune doctor {shlex.join(without(words, _OF_TRAIN))}"


def without(words: Sequence[str], options: Mapping[str, Follows]) -> list[str]:
    """The words of a command but these options and what belongs to them."""
    kept, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        follows = options.get(name.replace("--no-", "--", 1))
        if follows is None:
            kept.append(word)
        elif not equals:
            del rest[: _behind(rest, follows)]
    return kept


def _behind(rest: Sequence[str], follows: Follows) -> int:
    """How many of the words that come next belong to the option before them."""
    if follows == "several":
        return next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))
    return int(follows == "one" or (follows == "perhaps one" and not "".join(rest[:1]).startswith("-")))
