"""What every profile of a decoder is held to. docs/architecture.md gives these numbers, so nobody may loosen them unseen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ptune.verify.decoder import profile


@pytest.mark.parametrize(("name", "kept", "limits"), [
    ("nf4", None, {"max_abs_logprob": 5e-4}),
    ("int8", None, {"mean_kl": 0.01, "top1": 0.95}),
    ("int4", 1, {"mean_kl": 0.005, "top1": 0.95}),
    ("int4", 0.999, {"mean_kl": 0.05, "top1": 0.88}),
    ("int4", 0, {"mean_kl": 0.05, "top1": 0.88}),
])  # fmt: skip
def test_the_gate_of_each_profile(name: str, kept: float | None, limits: dict[str, float]) -> None:
    graph = SimpleNamespace(kept=kept)
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(graphs={name: graph}))
    assert profile._held_to(bundle, name)[0] == limits
