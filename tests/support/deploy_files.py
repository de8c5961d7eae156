"""The files that put a server to work, and how their commands are read."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from ptune.cli.parse import parse
from ptune.cli.serve import Serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "ptune"
BUNDLE = ROOT / "tests" / "fixtures" / "bundle-1"  # a server replays its golden vectors as it starts
CHAT = {
    "model": "tuned",
    "max_tokens": 5,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Define: Patience"}],
}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def program(name: str) -> str | None:
    """The path of a program that was installed beside Python, or on the machine; None where there is none."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def served_by(words: list[str]) -> Serve:
    """What the command `ptune serve …` is told; ends the test where an option does not exist."""
    assert words[:2] == ["ptune", "serve"]
    try:
        return parse(Serve, words[2:], "serve")
    except SystemExit:
        raise AssertionError(f"ptune serve does not take {words[2:]}") from None


def stages(dockerfile: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of a Dockerfile, by its name; "" for those before the first."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", dockerfile))
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" ")[2]
            found[stage] = []
        found[stage].append((word, rest.strip()))
    return found


def last(stage: list[tuple[str, str]], word: str) -> str:
    """What the last instruction of that name says."""
    return [rest for name, rest in stage if name == word][-1]


def entrypoint(target: str) -> list[str]:
    """What a container of that target runs."""
    words: list[str] = json.loads(
        last(stages((ROOT / "Dockerfile").read_text("utf-8"))[target], "ENTRYPOINT")
    )
    return words
