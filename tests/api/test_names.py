"""`import ptune`: light, complete, and with real types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ptune

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_import_is_light() -> None:
    new = fresh(
        "import sys; before = {*sys.modules}; import ptune; print(*({*sys.modules} - before))"
    ).split()
    assert len(new) < 20
    assert not {"torch", "numpy", "pydantic", "onnxruntime"} & {*new}


@pytest.mark.parametrize("name", ptune.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(ptune, name) is not None
    assert name in dir(ptune)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ptune.trian  # noqa: B018


def test_every_error_is_at_the_top_and_a_ptune_error() -> None:
    from ptune import errors

    kinds = [
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert {*kinds} <= {*ptune.__all__}
    assert all(issubclass(getattr(ptune, name), ptune.PtuneError) for name in kinds)


def test_the_function_export_is_not_hidden_by_the_package_of_that_name() -> None:
    said = fresh(
        "import ptune, ptune.export.rewrite; from ptune.export import rewrite; from ptune import export\n"
        "print(ptune.export is export, callable(export), rewrite.__name__)"
    )
    assert said.split() == ["True", "True", "ptune.export.rewrite"]


def test_loading_and_looking_at_a_model_needs_no_torch() -> None:
    said = fresh(
        "import sys, ptune; ptune.load, ptune.ChatModel, ptune.EncoderModel, ptune.Recipe; print('torch' in sys.modules)"
    )
    assert said.strip() == "False"


def test_the_type_checker_sees_what_a_notebook_sees() -> None:
    """In a process of its own: mypy raises Python's recursion limit, for good."""
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            ROOT / "pyproject.toml",
            ROOT / "tests" / "api" / "typed_usage.py",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
