"""Positions in three dimensions: those that transformers works out of the grids of images, at any cut."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from ptune.codecs.positions import TokenPositions
from ptune.codecs.vision import FIRST_ROW

GRIDS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=4)
TEXTS = st.lists(st.integers(1, 5), min_size=5, max_size=5)  # tokens before each image and behind the last


def sequence(grids: list[tuple[int, int]], texts: list[int]) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """Text, image, text, …: tokens, and the grids by their first row."""
    tokens, first, placed = [7] * texts[0], FIRST_ROW + 3, {}
    for (down, across), after in zip(grids, texts[1:], strict=False):
        placed[first] = down, across
        tokens += [*range(first, first + down * across), *[7] * after]
        first += down * across + 2
    return tokens, placed


def by_transformers(tokens: list[int], grids: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
    model = Qwen2VLModel.__new__(Qwen2VLModel)
    torch.nn.Module.__init__(model)
    model.config = transformers.Qwen2VLConfig()  # two patches make a row, down and across
    ids = torch.tensor([tokens])
    kinds = (ids >= FIRST_ROW).int()
    sizes = torch.tensor([[1, 2 * down, 2 * across] for down, across in grids]) if grids else None
    positions, behind = model.get_rope_index(ids, kinds, image_grid_thw=sizes)
    return positions[:, 0].numpy(), int(behind) + len(tokens)


@settings(deadline=None, max_examples=60)
@given(GRIDS, TEXTS)
def test_positions_are_transformers_own(grids: list[tuple[int, int]], texts: list[int]) -> None:
    tokens, placed = sequence(grids, texts)
    table, behind = by_transformers(tokens, grids)
    found = TokenPositions.of(tokens, placed)
    np.testing.assert_array_equal(found.table, table)
    assert found.next == behind


@given(GRIDS, TEXTS, st.integers(0, 60), st.integers(0, 60))
def test_any_chunk_has_the_positions_of_the_whole_and_text_goes_on_behind(
    grids: list[tuple[int, int]], texts: list[int], one: int, other: int
) -> None:
    tokens, placed = sequence(grids, texts)
    start, end = sorted((one, other))
    longer = TokenPositions.of([*tokens, *[7] * 60], placed)
    np.testing.assert_array_equal(
        TokenPositions.of(tokens, placed).between(start, end), longer.table[:, start:end]
    )


def test_the_same_image_twice_in_a_row_is_two_images() -> None:
    image = [FIRST_ROW, FIRST_ROW + 1]
    assert TokenPositions.of([5, *image, *image, 5], {FIRST_ROW: (1, 2)}).table.tolist() == [
        [0, 1, 1, 3, 3, 5], [0, 1, 1, 3, 3, 5], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip


def test_an_image_whose_beginning_was_cut_off_keeps_the_places_of_its_rows() -> None:
    found = TokenPositions.of([FIRST_ROW + 3, FIRST_ROW + 4, FIRST_ROW + 5, 7], {FIRST_ROW: (2, 3)})
    assert found.table.tolist() == [[0, 0, 0, 3], [1, 1, 1, 3], [0, 1, 2, 3]]
