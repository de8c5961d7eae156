"""Nothing that ptune brings along reports to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("code", ["import ptune, onnxruntime", "import ptune_serve.lifecycle, onnxruntime"])
def test_onnxruntime_is_silent(code: str, tmp_path: Path) -> None:
    """Its telemetry makes a file that identifies the machine, as soon as it is imported."""
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    home.pop("ORT_DISABLE_TELEMETRY", None)
    assert not files_left_by(code, home)


def files_left_by(code: str, home: dict[str, str]) -> list[Path]:
    subprocess.run([sys.executable, "-c", code], env=home, check=True, timeout=120)
    return [path for path in Path(home["HOME"]).rglob("*") if path.is_file()]
