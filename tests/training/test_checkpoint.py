"""Checkpoints are written whole, and a damaged one falls back to the one before."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ptune.errors import FormatError, PtuneError
from ptune.formats.whole_write import whole_folder
from ptune.training.checkpoint import Checkpoints, State, tensors_folder
from ptune.training.guards.spike_protection import NormHistory


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(3, 4)).square().sum().backward()
    optimizer.step()


def test_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    norms = NormHistory(steps=30, mean=0.1 + 0.2, variance=1 / 3)
    state = State(step=3, best_step=3, best_loss=1.5, worse=1, seconds=9.25, norms=norms)
    Checkpoints(tmp_path, keep=2).save(state, model, optimizer)
    again, its_optimizer = trained(0)
    assert Checkpoints(tmp_path, keep=2).resume(again, its_optimizer) == state
    for _ in range(3):
        step(model, optimizer)
        step(again, its_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_holds_nothing_that_could_run_code(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(State(step=1), *trained(1))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_starts_afresh_where_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", keep=1).resume(*trained(0)) == State()


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints, kit = Checkpoints(tmp_path, keep=2), trained(1)
    for number in range(1, 6):
        checkpoints.save(State(step=number, best_step=min(number, 2)), *kit)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-2", "step-4", "step-5"]


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_one_falls_back_with_a_word(
    tmp_path: Path, file: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2):
        checkpoints.save(State(step=number), *trained(number))
    path = tmp_path / "step-2" / file
    raw = path.read_bytes()
    if damage == "cut":
        path.write_bytes(raw[:-9])
    elif damage == "flipped":
        path.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
    else:
        path.unlink()
    model, optimizer = trained(0)
    assert checkpoints.resume(model, optimizer).step == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained(1)[0].parameters(), strict=True))
    assert "step-2 cannot be used" in capsys.readouterr().err


def test_one_that_latest_does_not_point_to_is_not_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2):
        checkpoints.save(State(step=number), *trained(number))
    (tmp_path / "latest.json").write_text(json.dumps({"step": 1}))
    assert checkpoints.resume(*trained(0)).step == 1


def test_weights_of_another_recipe_are_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(State(step=1), *trained(1))
    other = nn.Linear(3, 3)
    with pytest.raises(FormatError, match="other weights"):
        Checkpoints(tmp_path, keep=1).load_weights(1, other)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adapter"

    def write(text: str, then: Callable[[], object]) -> None:
        with whole_folder(target) as part:
            (part / "file").write_text(text)
            then()

    with pytest.raises(ZeroDivisionError):
        write("half", lambda: 1 / 0)
    assert not list(tmp_path.iterdir())
    for text in ("old", "new"):
        write(text, list)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert (target / "file").read_text() == "new"


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PtuneError, match=r"disk is full.*step-1"), tensors_folder(tmp_path / "step-1"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_says_is_found_in_safetensors_own_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(PtuneError, match="step-1: File too large"),
            tensors_folder(tmp_path / "step-1") as part,
        ):
            save_file({"a": torch.ones(10_000)}, part / "weights.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_kill_left_ahead_never_pushes_out_what_is_saved_next(tmp_path: Path) -> None:
    """step-20 was written, its pointer was not moved; the run went on from 15 and stopped at 17."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(State(step=20), *trained(2))
    checkpoints.save(State(step=15), *trained(1))
    checkpoints.save(State(step=17), *trained(1))
    assert Checkpoints(tmp_path, keep=1).resume(*trained(0)).step == 17
    checkpoints.forget_after(17)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-17"]


@pytest.mark.parametrize("pointer", [None, "{", "{}", '{"step": null}'])
def test_a_pointer_that_is_gone_or_damaged_loses_nothing(tmp_path: Path, pointer: str | None) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(State(step=4), *trained(1))
    latest = tmp_path / "latest.json"
    latest.unlink() if pointer is None else latest.write_text(pointer)
    assert checkpoints.resume(*trained(0)) == State(step=4)


def test_starting_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(State(step=4), *trained(1))
    (tmp_path / "step-4" / "state.json").write_text("{}")
    assert checkpoints.resume(*trained(0)) == State()
    assert "from the beginning" in capsys.readouterr().err
