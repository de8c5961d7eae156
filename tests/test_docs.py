"""The documentation names everything that there is, and nothing that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptune.cli import COMMANDS, main
from ptune.config.recipe import Recipe
from ptune.config.tasks import SPECS
from ptune.doctor.doctor import RULES
from ptune.methods import METHODS
from ptune.spec import Spec

ROOT = Path(__file__).parents[1]
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
COMING_FROM = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
DOCS = "\n".join(
    path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
)


def options() -> Iterator[str]:
    for name, field in Recipe.model_fields.items():
        if name in ("method", "task"):
            kinds = METHODS if name == "method" else SPECS
            yield from (f"{name}.{own}" for kind in kinds for own in kind.model_fields)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Spec):
            yield from (f"{name}.{own}" for own in field.annotation.model_fields)
        else:
            yield name


@pytest.mark.parametrize("option", sorted(set(options())))
def test_every_option_is_explained(option: str) -> None:
    assert f"`{option}`" in (METHODS_PAGE if option.startswith("method.") else TRAINING)


@pytest.mark.parametrize("method", [kind.__name__ for kind in METHODS])
def test_every_method_is_explained(method: str) -> None:
    assert f"| `{method}` |" in METHODS_PAGE


def test_no_option_is_explained_that_there_is_not() -> None:
    table = TRAINING[TRAINING.index("## Every option") : TRAINING.index("## What a run holds")]
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", table))
    assert named <= set(options())


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_every_kind_of_bad_data_is_explained(rule: str) -> None:
    assert f"`{rule}`" in TRAINING


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_mentioned(command: str) -> None:
    assert f"ptune {command}" in DOCS


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_files_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for name in re.findall(r"`((?:recipes|benchmarks|scripts|ptune|docs)/[\w./]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


def ours(row: str) -> list[str]:
    """What stands in backticks in ptune's column, the second, of a table's row."""
    return re.findall(r"`([^`]+)`", row.split(" | ")[1])


ROWS = [line for line in COMING_FROM.splitlines() if line.startswith("| `")]


def test_options_named_to_newcomers_exist() -> None:
    named = {name for row in ROWS for name in ours(row) if re.fullmatch(r"[a-z]+\.[a-z_]+", name)}
    assert len(named) > 25
    assert named <= set(options())


def test_flags_named_to_newcomers_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("train", "export", "serve"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = {name for row in ROWS for name in ours(row) if name.startswith("--")}
    assert len(named) > 8
    assert named <= flags


def test_recipes_and_commands_named_to_newcomers_exist() -> None:
    named = {name for row in ROWS for name in ours(row)}
    recipes = {name for name in named if re.fullmatch(r"chat_[a-z0-9_]+", name)}
    assert recipes
    assert all((ROOT / "recipes" / f"{name}.py").is_file() for name in recipes)
    assert {name.split()[1] for name in named if name.startswith("ptune ")} <= set(COMMANDS)
