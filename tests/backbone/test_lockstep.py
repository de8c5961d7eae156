"""Passes in lockstep compute what each computes alone, and make each weight once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from support import tiny_models
from torch import Tensor

from ptune.backbone.float32 import Float32Linear, computed_weights, in_float32
from ptune.backbone.lockstep import in_lockstep, shared
from ptune.backbone.quantize import quantize
from ptune.verify.decoder import torch_side
from ptune.verify.decoder.torch_side import Probe, logprobs


def probes(count: int = 5) -> list[Probe]:
    lengths = [9, 40, 17, 9, 23][:count]
    return [Probe(tuple(range(5, 5 + length)), (3, length - 1), 4) for length in lengths]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize("at_once", [2, 8])
def test_the_bits_are_those_of_one_at_a_time(
    family: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models.model(family).requires_grad_(False).eval()
    quantize(model, "nf4")
    in_float32(model)
    made: list[Float32Linear] = []
    own = Float32Linear._made
    monkeypatch.setattr(Float32Linear, "_made", lambda layer: made.append(layer) or own(layer))  # type: ignore[func-returns-value]
    alone = [rows for probe in probes() for rows in logprobs(model, [probe])]
    used, count = {*map(id, made)}, len(made)
    assert len(used) == len(computed_weights(model)) or family == "qwen3_moe"
    made.clear()
    monkeypatch.setattr(torch_side, "AT_ONCE", at_once)
    together = logprobs(model, probes())
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))
    if family != "qwen3_moe":  # whose experts each text chooses
        assert len(made) * len(probes()) == count * -(-len(probes()) // at_once)


def test_layers_may_come_in_any_order() -> None:
    """Each pass asks for the layers of its own; none waits for ever."""
    made: list[str] = []

    def weight(name: str) -> Tensor:
        made.append(name)
        return torch.tensor([ord(name)])

    def walk(names: str) -> str:
        return "".join(chr(int(shared(name, partial(weight, name)))) for name in names)

    ways = ["abcabc", "abc", "", "cab", "abca"]
    assert in_lockstep([partial(walk, names) for names in ways]) == ways
    assert len(made) < sum(map(len, ways)) - 4
    assert walk("ab") == "ab", "outside there is nothing to wait for"


def test_one_that_fails_ends_all() -> None:
    def fails(names: str) -> None:
        for name in names:
            if name == "!":
                raise ValueError(names)
            shared(name, lambda: torch.zeros(1))

    before = threading.active_count()
    jobs: list[Callable[[], None]] = [partial(fails, names) for names in ("abcd", "ab!", "abcd")]
    with pytest.raises(ValueError, match="ab!"):
        in_lockstep(jobs)
    assert threading.active_count() == before
