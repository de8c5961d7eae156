"""What does not fit is changed at the least cost, or refused with the ledger and the change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.config.cards import GPUS
from ptune.config.recipe import Plan, Recipe
from ptune.errors import RecipeError
from ptune.planning import fit_into, planned, predict, preflight, refuse
from ptune.planning.hardware import gpu_bytes

from .conftest import Make

LENGTHS = [2000, 1800, 1500, 1200]
_needed: dict[str, int] = {}  # several tests measure the same recipe by what it needs as it is


def needed(recipe: Recipe, lengths: Sequence[int] = LENGTHS) -> int:
    key = f"{recipe.model_dump_json()} {lengths}"
    if key not in _needed:
        _needed[key] = predict(recipe, lengths, device="cpu").needed_bytes
    return _needed[key]


def test_what_fits_is_left_as_it_is(make: Make) -> None:
    recipe = make()
    found = fit_into(recipe, LENGTHS, needed(recipe))
    assert found.fits
    assert found.changes == ()
    assert found.recipe is recipe


def test_smaller_rows_come_first_as_they_change_no_result(make: Make) -> None:
    recipe = make()
    found = fit_into(recipe, LENGTHS, needed(recipe) - 50_000_000)
    assert found.fits
    assert [change.split()[0] for change in found.changes] == ["--train.micro-batch-tokens"]
    assert max(LENGTHS) <= found.recipe.train.micro_batch_tokens < sum(LENGTHS)
    assert found.ledger.needed_bytes <= 0.95 * (needed(recipe) - 50_000_000)
    assert found.recipe.train.batch_size == recipe.train.batch_size


def test_a_proposal_leaves_a_twentieth_free(make: Make) -> None:
    for missing_bytes in (1000, 20_000_000):  # of 50 MB the test above has the proposal
        memory = needed(make()) - missing_bytes
        found = fit_into(make(), LENGTHS, memory)
        assert found.fits
        assert found.changes
        assert found.ledger.needed_bytes <= 0.95 * memory


def test_then_checkpointing(make: Make, tmp_path: Path) -> None:
    """Of several layers: of a single one there is nothing to gain."""
    shape = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "max_position_embeddings": 4096,
    }
    model = tiny_models.build(tmp_path / "deep", "llama", **shape)

    def deep(**train: Any) -> Recipe:
        recipe = make(**train)
        return recipe.model_copy(
            update={"backbone": recipe.backbone.model_copy(update={"model": str(model)})}
        )

    least = deep(micro_batch_tokens=max(LENGTHS), gradient_checkpointing=True)
    found = fit_into(deep(), LENGTHS, int(needed(least) / 0.95) + 1000)
    assert found.fits
    assert found.recipe.train.gradient_checkpointing
    assert found.recipe.backbone.quantize == "none"


def test_layers_are_streamed_where_nothing_else_is_enough(make: Make, tmp_path: Path) -> None:
    """The last resort, and with examples as long as they were."""
    shape = {"hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 5}
    tiny_models.FAMILIES["llama"](**shape).save_pretrained(tmp_path)  # its config is enough
    recipe = make(max_length=512)
    recipe = recipe.model_copy(
        update={"backbone": recipe.backbone.model_copy(update={"model": str(tmp_path)})}
    )
    lengths = [500, 400]
    spec = recipe.backbone.model_copy(update={"quantize": "nf4"})
    packed = recipe.model_copy(
        update={"backbone": spec, "train": recipe.train.model_copy(update={"gradient_checkpointing": True})}
    )
    shortest = packed.model_copy(update={"task": packed.task.model_copy(update={"max_length": 128})})
    found = fit_into(recipe, lengths, needed(shortest, [128, 128]) - 2_000_000)
    assert found.fits
    assert found.changes[-1] == "--backbone.stream"
    assert {"--train.gradient-checkpointing", "--backbone.quantize nf4"} <= set(found.changes)
    assert not any("max-length" in change for change in found.changes)
    assert Recipe.model_validate(found.recipe.model_dump())


def test_where_nothing_helps_the_cheapest_that_would_do_is_named_and_refused(make: Make) -> None:
    found = fit_into(make(), LENGTHS, 10**6)
    assert not found.fits
    assert found.ledger.needed_bytes < needed(make())
    assert re.search(
        r"even with --train\S* .* it needs 0\.\d GB; 0\.\d GB of memory would do", found.described()
    )
    ledger = predict(make(), LENGTHS, device="cpu")
    with pytest.raises(RecipeError, match=r"activations .*nothing makes it fit: .* of memory would do"):
        refuse(make(), ledger, found)


def test_on_a_card_the_cheapest_is_a_card(make: Make) -> None:
    found = fit_into(make(), LENGTHS, 10**6, device="cuda")
    ledger = found.ledger
    for name in ("RTX 4060", "RTX 3060", "RTX 4090"):
        missing = int(0.95 * gpu_bytes(name)) - 1000 - ledger.baseline - ledger.step_bytes
        larger = replace(found, ledger=replace(ledger, activations=ledger.activations + missing))
        assert f"a card of {GPUS[name]} GB (" in larger.described()


def test_refusal_names_the_parts_and_the_way(make: Make) -> None:
    recipe = make()
    ledger, memory = predict(recipe, LENGTHS, device="cpu"), needed(recipe) - 50_000_000
    with pytest.raises(RecipeError, match=r"needs .* predicted, .*--train.micro-batch-tokens .*--plan.auto"):
        refuse(recipe, ledger, fit_into(recipe, LENGTHS, memory))


def test_proposed_rows_are_nearly_the_longest_that_fit(make: Make) -> None:
    """On a card memory is straight between two lengths, and nearly so on a CPU."""
    recipe = make()
    memory = predict(recipe, LENGTHS, device="cuda").needed_bytes - 40_000_000
    found = fit_into(recipe, LENGTHS, memory, device="cuda")
    assert 0.93 * memory <= found.ledger.needed_bytes <= 0.95 * memory


def test_a_model_that_cannot_be_loaded_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU run quantises in main memory."""
    monkeypatch.setattr(preflight, "gpu_here", lambda: ("card", 24 * 10**9))
    assert planned(make(quantize="nf4"), LENGTHS)[1].main_memory > 0
    monkeypatch.setattr(preflight, "ram_bytes", lambda: 10**6)
    with pytest.raises(RecipeError, match=r"needs 0\.\d GB of main memory, predicted, and 0\.0 GB are free"):
        planned(make(quantize="nf4"), LENGTHS)


def test_the_gate_lets_through_changes_or_refuses(make: Make) -> None:
    assert planned(make(), LENGTHS)[0] == make()
    memory = f"{(needed(make()) - 50_000_000) / 1e6:.3f}MB"
    with pytest.raises(RecipeError, match=r"micro-batch-tokens"):
        planned(make(plan=Plan(memory=memory)), LENGTHS)
    recipe, _ = planned(make(plan=Plan(memory=memory, auto=True)), LENGTHS)
    assert recipe.train.micro_batch_tokens < 8192
