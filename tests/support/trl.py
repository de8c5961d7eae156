"""What TRL computes: a script that runs in a process in which it can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.libraries import printed


def folder_of_trl(folder: Path) -> Path:
    """Where TRL can be imported from: installed into `folder`, or kept where PTUNE_CLIENTS says."""
    kept = Path(os.environ.get("PTUNE_CLIENTS") or folder) / "trl"
    if not (kept / "trl").is_dir():
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(kept), "trl"]
        if subprocess.run(install, capture_output=True).returncode:
            pytest.skip("trl cannot be installed here")
    return kept


def of_trl(script: str, asked: Any, folder: Path) -> Any:
    """What the script prints as JSON, given `asked` as JSON. folder: see `folder_of_trl`."""
    return printed(folder_of_trl(folder), script, asked)
