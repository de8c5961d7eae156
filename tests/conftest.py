"""Every test is offline, on few threads, and repeatable."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "2")

if (
    "PTUNE_CACHE" not in os.environ
):  # nothing is left in the user's own; processes that tests start have the same
    _cache = tempfile.TemporaryDirectory(prefix="ptune-cache-")
    os.environ["PTUNE_CACHE"] = _cache.name


LONGEST_FIRST = (
    "test_whole_way.py",
    "test_killed.py",
    "test_families.py",
    "test_beam_sequences.py",
    "test_publish.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin at once: where processes share the work, one that came last would run alone."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)
