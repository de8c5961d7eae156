"""The folder of tiny encoders and pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import retrieval_runs


@pytest.fixture(scope="session")
def kit() -> Path:
    return retrieval_runs.kit()
