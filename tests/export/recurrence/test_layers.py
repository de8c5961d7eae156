"""Each kind of layer with states, by itself: transformers' numbers, and the same bits in any company and however a text is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.one_layer import OneLayer, one_layer

from ptune.backbone.exportable import WITH_STATES
from ptune.export.decoder.state_kinds import KERNELS

LAYERS: dict[str, dict[str, Any]] = {
    "qwen3_5": {},  # gated delta net: as many heads for two as for one key
    "falcon_h1": {"mamba_norm_before_gate": False, "mamba_rms_norm": True},  # state space, with multipliers
    "mamba2": {"time_step_limit": (0.1, 0.9)},  # whose step sizes are limited
    "mamba": {},  # selective scan
    "lfm2_bias": {},  # a convolution between gates
}
LARGE: dict[
    str, dict[str, Any]
] = {  # heads of 4,096 numbers and more go through onnxruntime's matrix products
    "qwen3_5": {"linear_key_head_dim": 64, "linear_value_head_dim": 64},
    "mamba2": {"state_size": 128, "head_dim": 32},
}
CLOSE = 1e-4  # norms of small numbers make larger ones of a rounding


@pytest.fixture(scope="module", params=[*LAYERS, *(f"large {name}" for name in LARGE)])
def layer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OneLayer:
    size, _, name = request.param.rpartition(" ")
    return one_layer(tmp_path_factory.mktemp(name), name, **(LARGE if size else LAYERS)[name])


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=8), seed=st.integers(0, 999))
def test_a_text_has_transformers_numbers_and_its_own_bits(
    layer: OneLayer, lengths: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    texts = [random.standard_normal((length, layer.width)).astype(np.float32) for length in lengths]
    alone = [layer.step([text], layer.no_states(1)) for text in texts]
    for text, ((found,), _) in zip(texts, alone, strict=True):
        expected = layer.whole(text)
        assert np.abs(found - expected).max() < CLOSE * np.abs(expected).max()
    states, done = layer.no_states(len(texts)), [0] * len(texts)
    pieces: list[list[np.ndarray]] = [[] for _ in texts]
    while done != lengths:
        cuts = random.choice([0, 1, 1, 2, 3, 10, 64], len(texts)).tolist()
        new = [min(cut, length - at) for cut, length, at in zip(cuts, lengths, done, strict=True)]
        given_, before = [text[at : at + n] for text, at, n in zip(texts, done, new, strict=True)], states
        computed, states = layer.step(given_, states)
        for row, count in enumerate(new):
            pieces[row].append(computed[row])
            done[row] += count
            for old, state in zip(before, states, strict=True):
                assert count or old[row].tobytes() == state[row].tobytes(), (
                    "an idle sequence keeps its states"
                )
    for row, ((whole,), after) in enumerate(alone):
        assert np.array_equal(np.concatenate(pieces[row]), whole)
        assert all(np.array_equal(one[0], state[row]) for one, state in zip(after, states, strict=True))


def test_a_single_token_has_its_own_bits(layer: OneLayer) -> None:
    """Alone in a step, where products have one row or column."""
    text = np.random.default_rng(0).standard_normal((9, layer.width)).astype(np.float32)
    ((whole,), _), states = layer.step([text], layer.no_states(1)), layer.no_states(1)
    for at in range(len(text)):
        (found,), states = layer.step([text[at : at + 1]], states)
        assert np.array_equal(found[0], whole[at])


def test_numbers_of_others_reach_no_state(layer: OneLayer) -> None:
    """Idle sequences repeat a neighbour's token in their cells: not even one that is no number changes them."""
    states = [
        np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32) for shape in layer.shapes
    ]
    wrong = np.full((3, layer.width), np.nan, np.float32)
    _, after = layer.step([wrong, wrong[:0]], states)
    for old, new in zip(states, after, strict=True):
        assert old[1].tobytes() == new[1].tobytes()
        assert np.isnan(new[0]).any()


def test_what_is_let_through_has_a_place_in_the_graph() -> None:
    assert {name for names in WITH_STATES.values() for name in names} == {*KERNELS}
