"""Pictures in an engine: remembered by their pixels, never under one number, put where their tokens are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ptune.codecs.tiles import Whole
from ptune.codecs.vision import FIRST_ROW, Layout
from ptune.engine.decoder.inputs.images import Picture, Tower, put_rows
from ptune.engine.decoder.request import Request, require_tokens
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.errors import RequestError


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a tile [3, 2, 2] are its three colours, twice as bright."""
    path = tmp_path_factory.mktemp("tower") / "features.onnx"
    nodes = [
        helper.make_node("Reshape", ["pixel_values", "shape"], ["flat"]),
        helper.make_node("Add", ["flat", "flat"], ["rows"]),
    ]
    made = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 3, 4])],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [1, 3, 4])],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def image(value: float) -> np.ndarray:
    return np.full((1, 3, 2, 2), value, np.float32)


PLAIN = Layout(Whole(), (1, 1), 1, (), 3)


def test_the_same_pixels_are_the_same_picture_and_others_are_not(graph: Path) -> None:
    tower = Tower(graph, 1)
    one, other = tower.see(image(1), PLAIN), tower.see(image(2), PLAIN)
    assert tower.see(image(1), PLAIN) is one
    assert tower.computed == 2
    assert {*one.tokens}.isdisjoint(other.tokens)
    assert min(one.tokens) == FIRST_ROW
    np.testing.assert_array_equal(one.rows, np.full((3, 4), 2))


def test_a_forgotten_picture_comes_back_under_other_numbers(graph: Path) -> None:
    """Whoever still has it keeps it; nobody else's tokens can mean it."""
    tower = Tower(graph, 1, kept_bytes=100)  # two pictures
    first = tower.see(image(1), PLAIN)
    seen = [tower.see(image(value), PLAIN) for value in (2, 3)]
    again = tower.see(image(1), PLAIN)
    assert tower.computed == 4
    tokens = [token for picture in (first, *seen, again) for token in picture.tokens]
    assert len(tokens) == len({*tokens})
    np.testing.assert_array_equal(first.rows, again.rows)


def test_rows_of_several_tiles_are_arranged(graph: Path) -> None:
    """Each order is another picture; without one the rows stand as they come."""
    tower, tiles = Tower(graph, 1), np.concatenate([image(1), image(3)])
    ordered = replace(PLAIN, order=np.array([5, 0, 0, 4]))
    as_they_come, arranged = tower.see(tiles, PLAIN), tower.see(tiles, ordered)
    assert [*as_they_come.rows[:, 0]] == [2, 2, 2, 6, 6, 6]
    assert [*arranged.rows[:, 0]] == [6, 2, 2, 6]
    assert {*as_they_come.tokens}.isdisjoint(arranged.tokens)
    assert tower.see(tiles, ordered) is arranged


TWO = (
    Picture(FIRST_ROW, np.arange(6, dtype=np.float32).reshape(3, 2)),
    Picture(FIRST_ROW + 9, np.ones((2, 2), np.float32)),
)


@given(st.lists(st.sampled_from([3, 5, FIRST_ROW, FIRST_ROW + 2, FIRST_ROW + 9, FIRST_ROW + 10]), min_size=1))
def test_rows_stand_where_their_tokens_are(ids: list[int]) -> None:
    kept, shift = put_rows(
        TWO, np.array(ids), np.ones(len(ids), np.bool_), np.full((len(ids), 2), 7, np.float32)
    )
    for at, token in enumerate(ids):
        if token < FIRST_ROW:
            assert kept[at]
            assert shift[at].tolist() == [7, 7]
            continue
        assert not kept[at]
        picture = next(one for one in TWO if token in one.tokens)
        assert shift[at].tolist() == picture.rows[token - picture.first].tolist()


def test_a_prompt_needs_the_pictures_of_its_tokens() -> None:
    require_tokens([5, FIRST_ROW, FIRST_ROW + 10], 1, 100, 50, TWO)
    for ids in ([5, FIRST_ROW], [FIRST_ROW + 3], [100]):
        with pytest.raises(RequestError, match="one or more tokens of 0 to 99"):
            require_tokens(ids, 1, 100, 50, () if FIRST_ROW in ids else TWO)


def test_only_chunks_with_rows_need_them() -> None:
    sequence = TokenSequence([5, FIRST_ROW, 6, 7], pictures=TWO)
    assert [Chunk(sequence, at, 1).sees for at in range(4)] == [False, True, False, False]
    assert not Chunk(TokenSequence([5, 6]), 0, 2).sees


def test_beams_and_a_prompts_own_probabilities_are_of_texts_alone() -> None:
    with pytest.raises(RequestError, match="prompt_logprobs"):
        Request((5, FIRST_ROW), pictures=TWO, prompt_logprobs=1)
