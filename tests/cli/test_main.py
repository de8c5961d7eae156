"""The command line: quick, forgiving about typos, and never a traceback for what a user got wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptune.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


def ptune(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "ptune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ptune.cli import main; main(['--help']);"
        "heavy = {'torch', 'transformers', 'peft', 'gradio', 'onnxruntime', 'tyro', 'fastapi'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "doctor", "plan", "tune"])
def test_help_without_a_recipe_shows_what_is_common_and_the_recipes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert "--train.lr" in out
    assert "--backbone.model" in out
    assert "--task." not in out
    assert "--method." not in out
    assert f"ptune {command} RECIPE --help" in out
    assert re.search(r"^  sentiment_lora +MiniLM learns whether a tweet is positive", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train"], ["train", "nothing-like-it"]])
def test_recipes_are_listed_with_the_first_lines_of_their_files(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        main(arguments)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    recipes = [file for file in (ROOT / "recipes").glob("*.py") if file.stem != "__init__"]
    assert len(recipes) > 10
    for file in recipes:
        purpose = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix('"""')
        assert re.search(rf"^  {file.stem} +{re.escape(purpose)}$", said, re.MULTILINE), file.stem


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trian"], 2, "did you mean 'train'"),
        (["train"], 2, "usage: ptune train RECIPE"),
        (["train", "chat_lorra"], 2, "did you mean 'chat_lora'"),
        (["train", "nowhere/x.py"], 2, "there is no recipe"),
        (["train", "chat_lora", "--methd.r", "8", "--dry-run"], 2, "--method.r"),
        (["train", "chat_lora", "--train.lr", "fast", "--dry-run"], 2, "train.lr"),
        (["train", "chat_lora", "--train.lr", "-1", "--dry-run"], 2, "greater than 0"),
        (["train", "chat_lora", "--train.schedule", "cosin", "--dry-run"], 2, "cosine"),
        (["evaluate", "no-such-run"], 1, "no run at no-such-run"),
        (["verify", "no-such-bundle"], 1, "no bundle at no-such-bundle"),
        (["serve", "no-such-bundle"], 1, "no bundle at no-such-bundle"),
        (["generate", "b", "--input", "no-such-file"], 1, "no-such-file"),
    ],
)
def test_wrong_use_is_one_message(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    done = ptune(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_dry_run_prints_the_resolved_recipe(tmp_path: Path) -> None:
    done = ptune(
        "train", "chat_lora", "--method.r", "8", "--train.epochs", "1", "--data.files", "a", "b", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "recipe.yaml").write_text(done.stdout)
    again = ptune("train", str(tmp_path / "recipe.yaml"), "--dry-run")
    assert again.stdout == done.stdout
    assert "r: 8" in done.stdout
    assert "- a\n  - b\n" in done.stdout


def test_a_broken_recipe_file_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("from ptune.config.recipe import Recipe, Train\nrecipe = Recipe(train=Train(lr=-1))\n")
    done = ptune("train", str(path))
    assert done.returncode == 2
    assert "greater than 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_own_files_are_not_judged_on_the_recipes(tmp_path: Path) -> None:
    done = ptune("train", "chat_lora", "--data.files", "my.jsonl", "--dry-run")
    assert "devils_dictionary" not in done.stdout
    assert "left out" in done.stderr
    kept = ptune("train", "chat_lora", "--data.files", "my.jsonl", "--data.test", "mine.jsonl", "--dry-run")
    assert "- mine.jsonl" in kept.stdout


RECIPE_THAT_WARNS = """
import logging, sys, warnings
for category in (FutureWarning, DeprecationWarning, UserWarning):
    warnings.warn_explicit(f"of {category.__name__}", category, "transformers/x.py", 1, module="transformers.x")
logging.getLogger("bitsandbytes.backends").warning("of a log")
from ptune.progress import say
say("ptune's own words")
from ptune.config.recipe import Recipe
recipe = Recipe(name="x")
"""


@pytest.mark.parametrize(
    ("python", "environment", "shown"),
    [([], {}, False), (["-W", "default"], {}, True), ([], {"PYTHONWARNINGS": "default"}, True)],
    ids=["a user", "-W", "PYTHONWARNINGS"],
)
def test_what_libraries_warn_of_is_shown_to_who_asks(
    tmp_path: Path, python: list[str], environment: dict[str, str], shown: bool
) -> None:
    (tmp_path / "x.py").write_text(RECIPE_THAT_WARNS)
    command = [sys.executable, *python, "-m", "ptune", "train", "x.py", "--dry-run"]
    known = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | environment
    done = subprocess.run(
        command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=120, check=True
    )
    assert "ptune's own words" in done.stderr
    for words in ("of FutureWarning", "of DeprecationWarning", "of UserWarning", "of a log"):
        assert (words in done.stderr) == shown, done.stderr


def test_a_reader_that_closes_early_gets_no_traceback() -> None:
    """`ptune train --help | head -1`"""
    command = [sys.executable, "-P", "-m", "ptune", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "BrokenPipe" not in said
    assert "Traceback" not in said
    assert process.returncode == 141


AN_END_WITH_GARBAGE = """
import gc, os, sys, types
from ptune.cli import main

class Node:
    def __del__(self):
        os.write(1, b"collected")

gc.disable()  # until the process ends
node = Node()
node.itself = node
del node
sys.modules.update(dict.fromkeys(sys.argv[2:], types.ModuleType("stub")))
sys.exit(main())
"""


@pytest.mark.parametrize(("loaded", "collected"), [([], False), (["triton._C.libtriton"], True)])
def test_an_ending_process_collects_only_for_a_library_that_tells_of_what_is_left(
    loaded: list[str], collected: bool
) -> None:
    command = [sys.executable, "-c", AN_END_WITH_GARBAGE, "--version", *loaded]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    assert ("collected" in done.stdout) == collected


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="comes with CUDA builds of torch")
def test_a_command_that_loaded_triton_ends_with_its_own_last_line() -> None:
    code = "import sys, triton._C.libtriton; from ptune.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "env", "--no-gpu"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr == ""
