"""What does not fit is changed at the least cost, or refused with the ledger and the change."""

from __future__ import annotations

import pytest

from ptune.config.recipe import Plan
from ptune.errors import RecipeError
from ptune.planning import fit_into, planned, predict, refuse

from .conftest import Make

LENGTHS = [2000, 1800, 1500, 1200]


def needed(recipe, lengths=LENGTHS) -> int:  # type: ignore[no-untyped-def]
    return predict(recipe, lengths, device="cpu").needed_bytes


def test_what_fits_is_left_as_it_is(make: Make) -> None:
    recipe = make()
    found = fit_into(recipe, LENGTHS, needed(recipe))
    assert found is not None
    assert found.changes == ()
    assert found.recipe is recipe


def test_smaller_rows_come_first_as_they_change_no_result(make: Make) -> None:
    recipe = make()
    found = fit_into(recipe, LENGTHS, needed(recipe) - 50_000_000)
    assert found is not None
    assert [change.split()[0] for change in found.changes] == ["--train.micro-batch-tokens"]
    assert max(LENGTHS) <= found.recipe.train.micro_batch_tokens < sum(LENGTHS)
    assert found.ledger.needed_bytes <= needed(recipe) - 50_000_000
    assert found.recipe.train.batch_size == recipe.train.batch_size


def test_a_proposal_leaves_a_twentieth_free(make: Make) -> None:
    for missing_bytes in (1000, 20_000_000, 50_000_000):
        memory = needed(make()) - missing_bytes
        found = fit_into(make(), LENGTHS, memory)
        assert found is not None
        assert found.changes
        assert found.ledger.needed_bytes <= 0.95 * memory


def test_then_checkpointing(make: Make) -> None:
    least = make(micro_batch_tokens=max(LENGTHS), gradient_checkpointing=True)
    found = fit_into(make(), LENGTHS, int(needed(least) / 0.95) + 1000)
    assert found is not None
    assert found.recipe.train.gradient_checkpointing
    assert found.recipe.backbone.quantize == "none"


def test_nothing_helps(make: Make) -> None:
    assert fit_into(make(), LENGTHS, 10**6) is None


def test_refusal_names_the_parts_and_the_way(make: Make) -> None:
    recipe = make()
    ledger, memory = predict(recipe, LENGTHS, device="cpu"), needed(recipe) - 50_000_000
    with pytest.raises(RecipeError, match=r"needs .* predicted, .*--train.micro-batch-tokens .*--plan.auto"):
        refuse(recipe, ledger, memory, fit_into(recipe, LENGTHS, memory))
    with pytest.raises(RecipeError, match=r"activations .*take a smaller backbone"):
        refuse(recipe, ledger, memory, None)


def test_the_gate_lets_through_changes_or_refuses(make: Make) -> None:
    assert planned(make(), LENGTHS)[0] == make()
    memory = f"{(needed(make()) - 50_000_000) / 1e6:.3f}MB"
    with pytest.raises(RecipeError, match=r"micro-batch-tokens"):
        planned(make(plan=Plan(memory=memory)), LENGTHS)
    recipe, _ = planned(make(plan=Plan(memory=memory, auto=True)), LENGTHS)
    assert recipe.train.micro_batch_tokens < 8192
