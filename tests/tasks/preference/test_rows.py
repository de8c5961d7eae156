"""Pairs that share a row and their prompt have the log-probabilities, and give the gradients, of each answer alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.codecs.chat import Example
from ptune.config.preference import Preference
from ptune.data.shapes.preferences import Pair
from ptune.tasks.preference.objective import PreferenceObjective
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.answer_rows import alike, answer_rows
from ptune.training.rows.packing import ALONE, Share
from ptune.training.rows.segments import packing

CPU = torch.device("cpu")


def pairs_of(seed: int, count: int = 5) -> list[Pair]:
    """Pairs with prompts of 3 to 30 tokens and answers of 1 to 12, some of which begin alike."""
    numbers = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, 250) for _ in range(numbers.randint(least, most)))

    def example(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Example:
        return Example(prompt + answer, (False,) * len(prompt) + (True,) * len(answer))

    made = []
    for number in range(count):
        prompt, begin = tokens(3, 30), tokens(0, 3)
        sides = [example(prompt, begin + tokens(1, 12)) for _ in range(2)]
        made.append(Pair(sides[0], sides[1], "train", number))
    return made


def alone(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """The log-probability of an answer, by transformers' own forward pass of this example."""
    log_p = model(torch.tensor([example.ids]), use_cache=False).logits[0].log_softmax(-1)
    at = [place for place, target in enumerate(example.targets) if target and place > 0]
    return sum((log_p[place - 1, example.ids[place]] for place in at), torch.zeros((), dtype=log_p.dtype))


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama", "mistral", "qwen3"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_shared_row_gives_what_each_answer_alone_gives(family: str, fast: bool, tmp_path: Path) -> None:
    rounding = 1e-9 if family == "gpt2" else 2e-5  # the norms of the others are computed in float32
    tiny_models.build(tmp_path, family)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager")
    model.eval().requires_grad_(True)
    pairs = pairs_of(seed=3)
    wanted = torch.stack([alone(model, side) for pair in pairs for side in pair.sides])
    weights = torch.linspace(-1, 1, len(wanted), dtype=torch.float64)
    (wanted * weights).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    with packing(model, fast) as packed:
        assert packed
        objective = PreferenceObjective(Preference(), NextTokenObjective(packed, 100, CPU, plain_head(model)))
        rows = list(objective.batches(pairs))
        assert 1 < len(rows) < len(pairs)
        assert sum(row.passes[0].input_ids.numel() for row in rows) < sum(map(len, pairs))
        for row in rows:
            found, _ = objective.answers(model, row)
            at = [2 * pair.number + side for pair in row.groups for side in range(2)]
            assert (found - wanted[at]).abs().max() <= rounding
            (found * weights[at]).sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            assert (parameter.grad - gradient).norm() <= rounding * (1 + gradient.norm())


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_every_pair_is_in_one_row_of_one_process(processes: int, packed: bool) -> None:
    pairs = pairs_of(seed=1, count=7)
    rows = [
        list(answer_rows(pairs, 60, CPU, Share(one, processes), packed=packed)) for one in range(processes)
    ]
    assert len({len(own) for own in rows}) == 1
    found = [pair.number for own in rows for row in own for pair in row.groups]
    assert sorted(found) == list(range(7))
    assert {len(row.passes) for own in rows for row in own} == {1 if packed else 2}


tokens = st.lists(st.integers(0, 3), min_size=2, max_size=9)


@given(tokens, tokens)
def test_what_is_shared_is_the_longest_beginning_that_leaves_each_side_a_token(
    one: list[int], other: list[int]
) -> None:
    sides = [Example(tuple(ids), (False, *[True] * (len(ids) - 1))) for ids in (one, other)]
    pair = Pair(sides[0], sides[1], "train", 0)
    shared = alike(pair)
    assert one[:shared] == other[:shared]
    assert shared == min(len(one), len(other)) - 1 or one[shared] != other[shared]
    (rows,) = answer_rows([pair], 100, CPU, ALONE, packed=True)
    batch = rows.passes[0]
    assert batch.shared is not None
    laid_out = batch.input_ids[0, batch.shared.columns].tolist()
    assert laid_out == one + other
    assert batch.position_ids[0, batch.shared.columns].tolist() == [*range(len(one)), *range(len(other))]
    assert batch.shared.columns[batch.shared.places].tolist() == list(range(batch.input_ids.shape[1]))
    assert batch.labels.tolist() == one[1:] + other[1:]
