"""An example of weight 2 is one that stands in its batch twice, one of weight 0 is not there, and weights of 1 change no bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models
from torch import nn

from ptune.codecs.chat import Example
from ptune.config.recipe import Data
from ptune.training.journal.metrics_log import read
from ptune.training.loop import optimizer_step
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

from .conftest import Make, fingerprint
from .test_loop import conversations, job, weights
from .test_processes import DDP2, SHARDED, TRAIN, check_same_way

CPU = torch.device("cpu")
LOSSES: dict[str, dict[str, Any]] = {
    "nll": {},
    "smoothed": {"smoothing": 0.2},
    "dft": {"by_probability": True},
}


def weighted(examples: Sequence[Example], *of: float) -> list[Example]:
    return [replace(example, weight=weight) for example, weight in zip(examples, of, strict=True)]


def told(
    model: nn.Module, objective: NextTokenObjective, examples: Sequence[Example]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss per target and its gradient."""
    model.zero_grad()
    wanted = sum(map(objective.targets, examples))
    scores = [objective.score(model, batch) for batch in objective.batches(examples)]
    assert sum(score.targets for score in scores) == pytest.approx(wanted, rel=1e-12)
    loss = sum((score.loss for score in scores), torch.zeros((), dtype=torch.float64)) / wanted
    loss.backward()
    return float(loss.detach()), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def same(found: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-10)
    assert found[1].keys() == wanted[1].keys()
    assert found[1]
    for name, gradient in wanted[1].items():
        # Norms compute in float32 in a model of float64, too.
        assert (found[1][name] - gradient).abs().max() <= 1e-6 * gradient.abs().max(), name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # with its loss in the head, and with whole logits
@pytest.mark.parametrize("most", [None, 40, 4096], ids=["one each", "short rows", "one row"])
def test_doubled_and_left_out(family: str, trains_head: bool, loss: str, most: int | None) -> None:
    model = tiny_models.model(family).double().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name or (trains_head and "lm_head" in name))
    first, second, third, fourth = conversations(4)
    with packing(model, fast=True) as can:
        packed = can and most is not None
        objective = NextTokenObjective(packed, most or 1, CPU, plain_head(model), **LOSSES[loss])
        found = told(model, objective, weighted([first, second, third, fourth], 2, 1, 0, 1.5))
        wanted = told(model, objective, [first, first, second, *weighted([fourth, fourth], 1, 0.5)])
        same(found, wanted)
        halves = told(model, objective, weighted([first, second, fourth], 1, 0.5, 0.75))  # ratios are all
        same(halves, wanted)
        twice = told(model, objective, weighted([first, second], 2, 1))
        same(twice, told(model, objective, [first, first, second]))
        absent = told(model, objective, weighted([first, second, third], 1, 0, 1))
        same(absent, told(model, objective, [first, third]))
        assert abs(found[0] - told(model, objective, [first, second, third, fourth])[0]) > 1e-6


@pytest.mark.parametrize("tokens", [16, 100, 4096])
def test_a_step_is_that_of_the_rows_written_out(tmp_path: Path, tokens: int) -> None:
    """With its optimiser, its norm and its mean, however many passes it takes."""
    found, plain = (job(tmp_path / name, micro_batch_tokens=tokens) for name in ("found", "plain"))
    a, b, c, d = found.examples[:4]
    with packing(found.model.get_base_model()):
        loss = optimizer_step(found, weighted([a, b, c, d], 3, 0, 1, 2), step=0, steps=3)
    with packing(plain.model.get_base_model()):
        wanted = optimizer_step(plain, [a, a, a, c, d, d], step=0, steps=3)
    assert loss == pytest.approx(wanted, rel=1e-12)
    (here,), (there,) = read(found.journal.path), read(plain.journal.path)
    assert here["targets"] == there["targets"]
    assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-6)
    for name, tensor in weights(found).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=0, atol=1e-6)  # of steps of 1e-3


def test_a_step_without_any_weight_has_no_gradient(tmp_path: Path) -> None:
    one = job(tmp_path, weight_decay=0.0)
    before = weights(one)
    with packing(one.model.get_base_model()):
        assert optimizer_step(one, weighted(one.examples[:2], 0, 0), step=0, steps=3) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_validation_does_not_know_them(family: str, loss: str) -> None:
    model = tiny_models.model(family).eval()
    objective = NextTokenObjective(False, 64, CPU, plain_head(model), **LOSSES[loss])
    examples = conversations(2)
    pairs = zip(objective.batches(examples), objective.batches(weighted(examples, 5, 0)), strict=True)
    with torch.no_grad():
        for plain, other in pairs:
            one, two = objective.score(model, plain), objective.score(model, other)
            assert torch.equal(one.loss, two.loss)
            assert torch.equal(one.correct, two.correct)
            assert one.targets == two.targets == len(plain.labels)


def rows_with(kit: Path, path: Path, weight: Callable[[int], float | None]) -> Data:
    """The kit's training rows with weights; None: the row is not there."""
    rows = [json.loads(line) for line in (kit / "train.jsonl").read_text().splitlines()]
    kept = [{**row, "weight": weight(at)} for at, row in enumerate(rows) if weight(at) is not None]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return Data(files=(path,), test=(kit / "test.jsonl",))


def test_weights_of_1_change_no_bit_and_rows_of_0_are_not_there(
    make: Make, farm: Callable[..., Any], kit: Path, tmp_path: Path
) -> None:
    plain = make(max_steps=4)
    ones, zeros, short = (
        plain.model_copy(update={"data": rows_with(kit, tmp_path / f"{name}.jsonl", weight)})
        for name, weight in (
            ("ones", lambda _: 1),
            ("zeros", lambda at: at % 3 and 1),
            ("short", lambda at: 1 if at % 3 else None),
        )
    )
    adapters, measured = {}, {}
    for name, recipe in (("plain", plain), ("ones", ones), ("zeros", zeros), ("short", short)):
        answer = farm(recipe, tmp_path / name)
        assert answer.codes == [0], answer.said
        adapters[name] = fingerprint(tmp_path / name / "adapter")
        timed = ("seconds", "tokens_per_s")
        measured[name] = [
            {key: value for key, value in entry.items() if key not in timed}
            for entry in read(tmp_path / name / "metrics.jsonl")
        ]
    assert adapters["ones"] == adapters["plain"] != adapters["zeros"]
    assert adapters["zeros"] == adapters["short"]
    assert measured["ones"] == measured["plain"]
    assert measured["zeros"] == measured["short"]


@pytest.mark.parametrize("request_", [DDP2, SHARDED], ids=["ddp", "fsdp2"])
def test_several_processes_take_the_way_of_one(
    make: Make, farm: Callable[..., Any], kit: Path, tmp_path: Path, request_: Any
) -> None:
    data = rows_with(kit, tmp_path / "rows.jsonl", lambda at: (0.5, 3, 1, 0, 2)[at % 5])
    alone = make(**TRAIN, max_steps=3).model_copy(update={"data": data})
    shared = make(**TRAIN, max_steps=3, micro_batch_tokens=64).model_copy(update={"data": data})
    answer = farm(alone, tmp_path / "alone", packed=False, double=True)
    assert answer.codes == [0], answer.said
    assert "a row counts 0.5 to 3 times in the training loss (weight)" in answer.said
    check_same_way(farm, shared, tmp_path / "out", tmp_path / "alone", 1e-9, double=True, **request_)
    targets = [entry["targets"] for entry in read(tmp_path / "out" / "metrics.jsonl") if "targets" in entry]
    assert {value % 1 for value in targets} == {0.0, 0.5}
