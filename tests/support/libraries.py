"""What other libraries compute: a script that runs in a process in which they can be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def printed_with(packages: Sequence[str], script: str, asked: Any, folder: Path) -> Any:
    """What the script prints as JSON on its last line, given `asked` as JSON.

    packages: installed without what they depend on, into `folder`, or kept where PTUNE_CLIENTS says. Skips where they cannot be.
    """
    kept = Path(os.environ.get("PTUNE_CLIENTS") or folder) / re.sub("[^a-z0-9.-]", "_", "-".join(packages))
    if not (kept / ".installed").is_file():
        options = ["-q", "--no-deps", "--no-build-isolation", "--target", str(kept)]
        if subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *packages], capture_output=True
        ).returncode:
            pytest.skip(f"{' and '.join(packages)} cannot be installed here")
        (kept / ".installed").touch()
    return printed(kept, script, asked)


def printed(kept: Path, script: str, asked: Any) -> Any:
    """What the script prints as JSON on its last line, given `asked` as JSON, where the packages in `kept` can be imported."""
    paths = os.pathsep.join(filter(None, [str(kept), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
