"""Other people's clients, each in an environment of its own, against a real socket. Needs a package registry.

PTUNE_CLIENTS names a folder in which the environments are kept from one run to the next.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CLIENTS = Path(__file__).parent / "clients"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
CALLED = [["weather", {"place": "Oslo"}]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("PTUNE_CLIENTS") or tmp_path_factory.mktemp("clients"))


def _python(kept: Path, name: str, *packages: str) -> Path:
    """The interpreter of an environment that has these packages."""
    python = kept / name / "bin" / "python"
    done = kept / name / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(kept / name)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        if subprocess.run(install, capture_output=True).returncode:
            pytest.skip(f"{', '.join(packages)} cannot be installed here")
        done.touch()
    return python


def _told(command: list[str], **options: Any) -> Any:
    """What a client printed last, as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, **options)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return json.loads(run.stdout.strip().splitlines()[-1])


@pytest.fixture
def url(served: Any) -> str:
    served.engine.scripts = {"weather?": CALL}
    return f"{served.url}/v1"


def test_langchain(url: str, kept: Path) -> None:
    python = _python(kept, "langchain", "langchain-openai")
    assert _told([str(python), str(CLIENTS / "langchain.py"), url]) == {
        "invoke": "pirate heard: ahoy",
        "stream": "pirate heard: ahoy",
        "batch": ["pirate heard: a", "pirate heard: b"],
        "completion": "base heard: abc",
        "json_schema": "Person",
        "function_calling": "Person",
        "json_mode": "{",
        "tool_calls": CALLED,
        "streamed_calls": CALLED,
        "after": "pirate heard: so?",
        "required": ["weather"],
    }


def test_instructor(url: str, kept: Path) -> None:
    python = _python(kept, "instructor", "instructor")
    found = _told([str(python), str(CLIENTS / "instructor.py"), url])
    assert found == {mode: ["Person", True] for mode in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA")}


def test_litellm(url: str, kept: Path) -> None:
    python = _python(kept, "litellm", "litellm")
    assert _told([str(python), str(CLIENTS / "litellm.py"), url]) == {
        "plain": ["pirate heard: ahoy"] * 2,
        "usage": [len("pirate heard: ahoy") + 1] * 2,
        "choices": [2, 2],
        "stream": ["pirate heard: ahoy"] * 2,
        "tools": [CALLED] * 2,
        "finish": ["tool_calls"] * 2,
        "json": [["old"]] * 2,
    }


def test_pydantic_ai(url: str, kept: Path) -> None:
    """Its agents' whole loop over each of the three APIs."""
    python = _python(kept, "pydanticai", "pydantic-ai-slim[openai,anthropic]")
    by_both = {
        "answer": "pirate heard: ahoy",
        "stream": "pirate heard: ahoy",
        "later": "pirate heard: more",
        "output tokens": len("pirate heard: more") + 1,
        "parts": ["user-prompt", "tool-call", "tool-return", "text"],
        "after the tool": "pirate heard: weather?<assistant><calls weather><tool>4 C in Oslo",
        "typed": ["Person", "Person"],
    }
    assert _told([str(python), str(CLIENTS / "pydantic_ai.py"), url]) == {
        "chat": by_both,
        "responses": by_both,
        "messages": {**by_both, "typed": ["Person"]},
    }


def test_llama_index(url: str, kept: Path) -> None:
    python = _python(kept, "llamaindex", "llama-index-llms-openai-like")
    assert _told([str(python), str(CLIENTS / "llama_index.py"), url]) == {
        "chat": "pirate heard: ahoy",
        "stream": "pirate heard: ahoy",
        "completion": "base heard: abc",
        "calls": CALLED,
        "typed": "Person",
        "agent": "pirate heard: weather?<assistant><calls weather><tool>4 C in Oslo",
    }


def test_node(url: str, kept: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = kept / "node"
    if not (folder / "node_modules" / "openai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
        if subprocess.run(
            ["npm", "install", "--silent", "openai"], cwd=folder, capture_output=True
        ).returncode:
            pytest.skip("openai cannot be installed from npm here")
    shutil.copy(CLIENTS / "node.mjs", folder / "node.mjs")
    assert _told(["node", "node.mjs", url], cwd=folder) == {
        "plain": ["pirate heard: ahoy"] * 2,
        "stream": "pirate heard: ahoy ☠",
        "tools": CALLED,
        "finish": "tool_calls",
        "streamedTools": ["weather"],
        "json": ["old"],
        "models": ["base", "pirate", "devil"],
        "completion": "base heard: abc",
        "error": ["NotFoundError", "model_not_found"],
    }


def test_lm_eval(url: str, kept: Path, tmp_path: Path) -> None:
    """It finds out by itself that the server has the tokenizer."""
    python = _python(kept, "lmeval", "lm-eval[api]")
    found = _told([str(python), str(CLIENTS / "lm_eval.py"), url, str(tmp_path)])
    assert found == {"acc": 0.75, "exact": 1.0}
