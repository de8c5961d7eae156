"""What `pytest --fast` leaves out, and that it fails where torch comes in all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fast_selection import left_out, needs

TESTS = Path(__file__).parent


def written(folder: Path, text: str, name: str = "test_it.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("head", "body", "needed"),
    [
        ("", "assert True", None),
        ("import torch", "assert True", "torch"),
        ("from ptune.backbone.load import load", "assert True", "torch"),  # through the product
        ("from support import tiny_models", "assert True", "torch"),  # through support
        ("from support import tiny_tokenizers", "assert True", None),
        ("if TYPE_CHECKING:\n    import torch", "assert True", None),
        ("def load():\n    import torch", "load()", "torch"),
        ("def load():\n    import torch", "assert True", None),
        ("class Load:\n    def go(self):\n        import peft", "Load().go()", "torch"),
        ("@pytest.fixture\ndef model():\n    import torch", "assert model", "torch"),
        ("@pytest.fixture(autouse=True)\ndef before():\n    import torch", "assert True", "torch"),
        ("import subprocess", "subprocess.run(['true'])", "a process of its own"),
        ("pytestmark = NEEDS_BROWSER", "assert True", "a browser"),
        ("pytestmark = [pytest.mark.slow]", "assert True", "the long forms"),
    ],
)
def test_the_source_says_what_a_test_needs(head: str, body: str, needed: str | None, tmp_path: Path) -> None:
    arguments = "model" if "model" in body else ""
    path = written(tmp_path, f"{head}\n\n\ndef test_it({arguments}):\n    {body}\n")
    assert needs(path).functions == {"test_it": needed}


def test_a_fixture_of_a_conftest_counts_for_those_that_ask_for_it(tmp_path: Path) -> None:
    written(tmp_path, "@pytest.fixture\ndef model():\n    import torch\n", "conftest.py")
    path = written(tmp_path, "def test_with(model):\n    pass\n\n\ndef test_without():\n    pass\n")
    assert needs(path).functions == {"test_with": "torch", "test_without": None}


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    written(tmp_path, "import torch\n\n\ndef test_a():\n    pass\n\n\ndef test_b():\n    pass\n", "test_1.py")
    written(tmp_path, "def test_c():\n    pass\n", "test_2.py")
    found = left_out(tmp_path)
    assert (found.selected, dict(found.functions), dict(found.files)) == (1, {"torch": 2}, {"torch": 1})
    assert "2 need torch" in str(found)


@pytest.mark.parametrize("imported", [False, True])
def test_a_fast_session_that_imports_torch_fails(imported: bool, tmp_path: Path) -> None:
    """By a name that the source does not show."""
    written(tmp_path, "", "torch.py")
    line = "importlib.import_module('to' + 'rch')" if imported else "pass"
    path = written(
        tmp_path, f"import importlib\n\n\ndef test_it():\n    {line}\n\n\ndef test_next():\n    pass\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--fast",
        str(path),
    ]
    paths = os.pathsep.join([str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == int(imported), done.stdout + done.stderr
    assert ("this test imported torch" in done.stdout) is imported
    assert ("1 failed, 1 passed" if imported else "2 passed") in done.stdout
