"""The options of a training that a shell script starts: `trl sft --model_name_or_path … --learning_rate 2e-4`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from ptune.errors import UsageError

_STARTS = re.compile(
    r"^(?:[A-Z_][A-Z0-9_]*=\S+ +)*(?:python3?|accelerate|torchrun|trl|llamafactory-cli|uv|deepspeed)\b",
    re.MULTILINE,
)
_SET = re.compile(r"^\s*(?:export +)?([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\S*)\s*$", re.MULTILINE)
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")


def called(script: str, path: Path) -> tuple[str, dict[str, Any]]:
    """The command before its options, and the options, of the first training in a script.

    Options are read as transformers' parser reads them: `--name value`, `--name=value`, `--name a b` (a list), `--flag`, `--no_flag`.

    Raises: UsageError if the script starts none that can be read.
    """
    text = re.sub(r"\\\s*\n", " ", script)
    for name, value in _SET.findall(text):
        text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value.strip("\"'").replace("\\", r"\\"), text)
    starts = _STARTS.search(text)
    if starts is None:
        raise UsageError(
            f"{path} starts no training that ptune knows: trl, llamafactory-cli, python or accelerate"
        )
    line = text[starts.start() :].partition("\n")[0]
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return _split(words)


def _split(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The words before the training's own options, and those options. accelerate's options stand before the script's name."""
    own = 0
    for at, word in enumerate(words):
        if word.endswith(".py") or word in ("sft", "dpo", "kto", "reward", "grpo", "rloo", "train"):
            own = at + 1
            break
    command, options = " ".join(words[:own]), dict[str, Any]()
    name = ""
    for word in words[own:]:
        if _OPTION.match(word) and "=" in word:
            name, _, value = word.lstrip("-").partition("=")
            options[name] = _value(value)
        elif _OPTION.fullmatch(word):
            name = word.lstrip("-")
            flag = name.removeprefix("no_")
            options[flag], name = (False, flag) if flag != name else (True, name)
        elif name:
            before = options[name]
            value = _value(word.rstrip(","))
            options[name] = value if isinstance(before, bool) else [*_listed(before), value]
    return command, options


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _value(word: str) -> Any:
    """A word as a number, a truth value or text; lists and mappings in JSON stay what they say."""
    try:
        return yaml.safe_load(word) if word else ""
    except (ValueError, ArithmeticError, RecursionError, yaml.YAMLError):
        return word
