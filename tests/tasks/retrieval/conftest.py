"""The folder of tiny encoders and pairs."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kit() -> Path:
    from support import retrieval_runs

    return retrieval_runs.kit()
