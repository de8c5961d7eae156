"""Every option of the engine is a flag and a keyword, and its default is declared once."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import ptune_serve.lifecycle as lifecycle
from ptune.cli import generate, serve
from ptune.cli.engine_flags import NO_FLAGS, EngineFlags
from ptune.cli.parse import parse
from ptune.engine.options import BatchKeywords, BatchOptions, EngineKeywords, EngineOptions
from ptune.errors import UsageError

CHOSEN = {
    "profile": ("--profile", "int8", "int8"),
    "threads": ("--threads", "3", 3),
    "max_rows": ("--max-rows", "7", 7),
    "max_waiting": ("--max-waiting", "9", 9),
    "adapter_bytes": ("--adapter-bytes", "1.5GiB", 3 << 29),
    "kv_bytes": ("--kv-gb", "0.5", 1 << 29),
    "prefill_chunk": ("--prefill-chunk", "64", 64),
    "step_ms": ("--step-ms", "12.5", 12.5),
    "kv_cache_dtype": ("--kv-cache-dtype", "int8", "int8"),
    "num_speculative_tokens": ("--num-speculative-tokens", "0", 0),
    "draft_model": ("--draft-model", "bundles/small", Path("bundles/small")),
    "kv_disk": ("--kv-disk", "idle", Path("idle")),
    "kv_disk_bytes": ("--kv-disk-gb", "2.5", 5 << 29),
    "kernels": ("--kernels", "off", "off"),
    "device": ("--device", "cuda", "cuda"),
}


@dataclass(frozen=True)
class Command:
    """A command with the engine's options.

    Args:
        engine: The engine's options.
    """

    engine: EngineFlags = NO_FLAGS


def test_every_option_is_a_flag() -> None:
    words = [word for flag, text, _ in CHOSEN.values() for word in (flag, text)]
    options = parse(Command, words, "command").engine
    assert {field.name: getattr(options, field.name) for field in fields(EngineOptions)} == {
        name: value for name, (_, _, value) in CHOSEN.items()
    }


def test_the_commands_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (serve, generate):
        with pytest.raises(SystemExit):
            command.run(["--help"])
        shown = capsys.readouterr().out
        assert all(flag in shown for flag, _, _ in CHOSEN.values()), command


def test_defaults_are_declared_once() -> None:
    plain = EngineOptions()
    assert all(getattr(NO_FLAGS, field.name) == getattr(plain, field.name) for field in fields(EngineOptions))
    names = {field.name for field in fields(EngineOptions)}
    for module in (lifecycle, serve, generate):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.arg | ast.AnnAssign):
                name = node.arg if isinstance(node, ast.arg) else getattr(node.target, "id", "")
                assert name not in names, f"{module.__name__} declares {name} again"
    assert is_dataclass(EngineOptions)


@pytest.mark.parametrize(
    ("options", "keywords"), [(BatchOptions, BatchKeywords), (EngineOptions, EngineKeywords)]
)
def test_every_option_is_a_keyword(options: type, keywords: type) -> None:
    assert get_type_hints(keywords) == get_type_hints(options)


@pytest.mark.parametrize("text", ["nan", "inf", "much"])
def test_what_is_no_size_of_a_cache(text: str) -> None:
    with pytest.raises(UsageError, match="--kv-gb"):
        parse(Command, ["--kv-gb", text], "command")


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1}, {"max_rows": 0}, {"max_waiting": 0}, {"prefill_chunk": 0},
        {"step_ms": -1.0}, {"step_ms": float("nan")}, {"num_speculative_tokens": -1},
        {"kernels": "on"}, {"device": "tpu"}, {"device": "rocm"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        EngineOptions(**options).check()


def test_a_missing_bundle_is_no_matter_of_options(tmp_path: Path) -> None:
    parsed = parse(serve.Serve, [str(tmp_path), "--max-rows", "3"], "serve")
    assert parsed.engine.max_rows == 3
