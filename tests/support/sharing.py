"""Which test files run in one process, where several share the suite: those that make the same models, runs or bundles.

Their makers in `support` keep what they made for the rest of the process, and a traced model is kept, too (`traced_once`). A
word in a file's source says what it makes.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

KITS = {
    "bundles of tasks": (
        "seq2seq_bundles", "encoder_bundles", "retrieval_runs", "recommendation_runs", "served_encoder",
    ),
    "translation": ("translation_runs",),
    "graphs of decoders": ("tiny_bundle", "living_adapters", "trace"),
}  # fmt: skip


@functools.cache
def group_of(path: Path) -> str:
    """The name of what a test file shares with others, else its own path."""
    words = set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return next((name for name, makers in KITS.items() if words & {*makers}), str(path))
