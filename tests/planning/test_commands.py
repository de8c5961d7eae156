"""What the commands take, against what their parts weigh."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_models

from ptune.backbone.load import load
from ptune.config.recipe import Recipe
from ptune.planning import commands, predict
from ptune.planning.commands import Need, needs
from ptune.planning.files import describe

from .conftest import Make

LENGTHS = [200, 120, 90, 60]


def planned(recipe: Recipe, device: str) -> dict[str, Need]:
    ledger = predict(recipe, LENGTHS, device="cuda" if device == "cuda" else "cpu")
    return {need.command: need for need in needs(recipe, ledger, describe(recipe.backbone).config)}


def test_only_training_and_evaluation_use_the_card(make: Make) -> None:
    found = planned(make(quantize="nf4"), "cuda")
    assert [*found] == ["train", "evaluate", "merge", "export", "serve"]
    assert {name for name, need in found.items() if need.card} == {"train", "evaluate"}
    assert found["evaluate"].card < found["train"].card
    assert not any(need.card for need in planned(make(quantize="nf4"), "cpu").values())


def test_disk_is_what_is_written(make: Make) -> None:
    recipe = make(quantize="nf4")
    model = load(recipe.backbone, device="cpu").model
    plain = load(make().backbone, device="cpu").model
    weights = sum(parameter.numel() for parameter in plain.parameters())
    found = planned(recipe, "cpu")
    assert found["merge"].disk == 8 * weights  # the saved model, and the mapped one it is written from
    assert found["export"].disk == found["serve"].disk < 4 * weights  # nothing in float32 is written
    assert found["serve"].disk < 0.8 * 4 * weights
    assert found["train"].disk > 0
    assert model.is_loaded_in_4bit
    assert planned(make(), "cpu")["export"].disk == 4 * weights


def test_a_streamed_model_is_on_disk_while_it_trains(make: Make, tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "deep", "llama", num_hidden_layers=6)
    recipe = make(gradient_checkpointing=True)
    specs = [recipe.backbone.model_copy(update={"model": str(folder), "stream": on}) for on in (False, True)]
    resident, streamed = (planned(recipe.model_copy(update={"backbone": spec}), "cpu") for spec in specs)
    assert streamed["train"].disk > resident["train"].disk
    assert streamed["train"].main_memory < resident["train"].main_memory
    assert "streamed" in streamed["train"].note
    for other in ("merge", "export", "serve"):
        assert streamed[other] == resident[other]


def test_commands_are_in_the_order_of_what_they_hold(make: Make) -> None:
    """A larger adapter writes more; weights in 4 bits are served in less memory than in float32."""
    small, large = (planned(make(rank=rank), "cpu") for rank in (2, 64))
    assert small["train"].disk < large["train"].disk
    nf4, plain = planned(make(quantize="nf4"), "cpu"), planned(make(), "cpu")
    assert nf4["serve"].main_memory < plain["serve"].main_memory
    assert nf4["export"].main_memory < plain["export"].main_memory


def test_packed_weights_that_lie_in_files_do_not_count(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the training, which packs them."""
    recipe = make(quantize="nf4")
    held = planned(recipe, "cpu")
    monkeypatch.setattr(commands, "WORTH_BYTES", 0)
    mapped = planned(recipe, "cpu")
    assert mapped["train"] == held["train"]
    assert mapped["evaluate"].main_memory < held["evaluate"].main_memory
    assert mapped["export"].main_memory < held["export"].main_memory
