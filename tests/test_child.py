"""Processes of our own start whatever lies in the working folder."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import ptune
from ptune.child import module_command
from ptune.tuning.trial import ptune_train
from ptune_serve.follow import PROVER

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shadowed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A working folder that holds folders called as our packages are: as a checkout's parent does, or somebody's own."""
    for name in ("ptune", "ptune_serve"):
        (tmp_path / name).mkdir()
        if request.param == "package":
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("shadowed", "command", "words"),
    [
        ("empty", module_command("ptune", "--version"), f"ptune {ptune.__version__}"),
        ("package", module_command("ptune", "--version"), f"ptune {ptune.__version__}"),
        ("package", ptune_train(Path("recipe.py"), Path("run"), False), "there is no recipe recipe.py"),
        ("package", [*PROVER, "--help"], "usage"),
    ],
    indirect=["shadowed"],
    ids=["ptune beside folders", "ptune", "a trial", "the prover"],
)
def test_a_child_finds_ptune_itself(shadowed: Path, command: list[str], words: str) -> None:
    done = subprocess.run(command, cwd=shadowed, capture_output=True, text=True, timeout=120)
    assert words in done.stdout + done.stderr


def test_children_are_started_in_this_way_alone() -> None:
    sources = [path for folder in ("ptune", "serve") for path in (ROOT / folder).rglob("*.py")]
    starting = [path.name for path in sources if re.search(r'"-m"', path.read_text(encoding="utf-8"))]
    assert starting == ["child.py"]
