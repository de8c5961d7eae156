"""Layers that keep states: what they compute however rows are cut, and the faults that the search of the graph finds in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import model
from torch import Tensor, nn

from ptune.errors import BackboneError
from ptune.export.decoder import state_kinds
from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.state_kinds import Kernel
from ptune.export.decoder.states import short_convolution
from ptune.export.decoder.trace import DYNAMIC, trace
from ptune.formats.signature import Signature, StateLayer

CHANNELS, SIZE = 6, 4
CONVOLUTION = "causal_conv1d_fn"
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}


class Convolution(nn.Module):
    """`short_convolution` by itself."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CHANNELS, SIZE, generator=random))
        self.bias = nn.Parameter(torch.randn(CHANNELS, generator=random))

    def forward(self, rows: Tensor, past: Tensor, new_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return short_convolution(rows, past, new_tokens, self.weight, self.bias)


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Convolution, onnxruntime.InferenceSession]:
    path = tmp_path_factory.mktemp("convolution") / "model.onnx"
    module = Convolution().eval()
    example = (
        torch.zeros(3, 5, CHANNELS),
        torch.zeros(3, SIZE - 1, CHANNELS),
        torch.zeros(3, dtype=torch.int64),
    )
    free = ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC}, {0: DYNAMIC})
    torch.onnx.export(
        torch.export.export(module, example, dynamic_shapes=free, strict=False),
        f=path, input_names=["rows", "past", "new_tokens"], output_names=["out", "present"], opset_version=20, dynamo=True,
        verbose=False,
    )  # fmt: skip
    return module, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=4), st.integers(0, 2**16))
def test_a_convolution_has_the_same_bits_however_rows_are_cut(
    convolution: tuple[Convolution, onnxruntime.InferenceSession], lengths: list[int], seed: int
) -> None:
    """Rows that are cut into steps beside others, idle ones among them; against PyTorch's own over the whole rows."""
    module, session = convolution
    random = np.random.default_rng(seed)
    texts = [random.standard_normal((length, CHANNELS)).astype(np.float32) for length in lengths]
    states = np.zeros((len(texts), SIZE - 1, CHANNELS), np.float32)
    done = [0] * len(texts)
    found: list[list[Any]] = [[] for _ in texts]
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        new = [int(random.integers(0, length - at + 1)) for at, length in zip(done, lengths, strict=True)]
        rows = np.full((len(texts), max(max(new), 1), CHANNELS), 9.0, np.float32)
        for row, (text, at, count) in enumerate(zip(texts, done, new, strict=True)):
            rows[row, :count] = text[at : at + count]
        before = states
        out, states = session.run(None, {"rows": rows, "past": states, "new_tokens": np.array(new, np.int64)})
        for row, count in enumerate(new):
            found[row] += [*out[row, :count]]
            assert count or np.array_equal(before[row], states[row]), "an idle row keeps its states"
            done[row] += count
    for text, rows_found in zip(texts, found, strict=True):
        begin = np.zeros((1, SIZE - 1, CHANNELS), np.float32)
        whole, _ = session.run(
            None, {"rows": text[None], "past": begin, "new_tokens": np.array([len(text)], np.int64)}
        )
        assert np.array_equal(whole[0], np.array(rows_found)), "to the bit"
        padded = torch.tensor(np.concatenate([begin[0], text])).T[None]
        expected = nn.functional.conv1d(padded, module.weight[:, None], module.bias, groups=CHANNELS)[0].T
        np.testing.assert_allclose(whole[0], expected.detach().numpy(), atol=1e-5)


def test_only_layers_with_attention_have_caches() -> None:
    signature = trace(model("lfm2", **SMALL).config).signature
    assert isinstance(signature, Signature)
    assert len(signature.cache) == 1
    assert signature.states == (StateLayer(name="model.layers.0.conv", shape=(2, 64)),)


def across_rows(rows: Tensor) -> Tensor:
    return rows - rows.mean(0, keepdim=True)


def along_rows(rows: Tensor) -> Tensor:
    return rows.cumsum(1)


def planted(between: Callable[[Tensor], Tensor]) -> Kernel:
    """A convolution with something else done to its rows."""

    def compute(layer: LayerStates, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        flat = hidden_states.transpose(1, 2)
        layer.present.append(layer.take() * 1.0)
        return layer.flat(between(layer.rows(flat)), flat).transpose(1, 2)

    return state_kinds.KERNELS[CONVOLUTION]._replace(compute=compute)


def test_what_is_done_along_rows_passes_and_across_them_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = model("lfm2", **SMALL).config
    monkeypatch.setitem(state_kinds.KERNELS, CONVOLUTION, planted(along_rows))
    trace(config)
    monkeypatch.setitem(state_kinds.KERNELS, CONVOLUTION, planted(across_rows))
    with pytest.raises(BackboneError, match="ReduceMean runs over the tokens of all sequences"):
        trace(config)


def read_late(layer: LayerStates, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Writes the new state, and reads the old one beside it."""
    past, flat = layer.take(), hidden_states.transpose(1, 2)
    rows = layer.rows(flat)
    layer.present.append(rows[:, :1] + torch.zeros_like(past))
    return layer.flat(rows + past[:, -1:], flat).transpose(1, 2)


def test_an_old_state_that_is_read_after_the_new_one_is_written_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = state_kinds.KERNELS[CONVOLUTION]._replace(compute=read_late)
    monkeypatch.setitem(state_kinds.KERNELS, CONVOLUTION, kernel)
    with pytest.raises(BackboneError, match=r"may read the state past_state\.0 after it was replaced"):
        trace(model("lfm2", **SMALL).config)


def test_a_step_keeps_the_states_of_rows_that_are_idle(tmp_path: Path) -> None:
    """In the graph itself, whatever the engine binds."""
    from support.bundles import tiny_bundle

    _, _, bundle = tiny_bundle(tmp_path, "lfm2")
    session = onnxruntime.InferenceSession(bundle.graph_path(), providers=["CPUExecutionProvider"])
    signature, random = bundle.decoder, np.random.default_rng(0)
    feeds: dict[str, Any] = {
        "input_ids": np.array([[5, 6, 7]]), "position_ids": np.array([[0, 1, 2]]), "pad_indices": np.array([[0, 0, 0], [0, 1, 2]]),
        "unpad_indices": np.array([3, 4, 5]), "seqlens_k": np.array([3, 2], np.int32), "query_seqlens": np.array([0, 3], np.int32),
        "capacity": np.array(8, np.int32), "logits_indices": np.array([2]), "lora_mask": np.zeros((1, 3, 0), np.float32),
        "state_pad_indices": np.array([[0, 0, 0], [0, 1, 2]]), "state_unpad_indices": np.array([3, 4, 5]), "new_tokens": np.array([0, 3]),
    }  # fmt: skip
    for name, layer in zip(
        signature.past_names(), [layer for layer in signature.cache for _ in "kv"], strict=True
    ):
        feeds[name] = np.zeros((2, layer.kv_heads, 8, layer.key_dim), np.float32)
    for name, state in zip(signature.past_state_names(), signature.states, strict=True):
        feeds[name] = random.standard_normal((2, *state.shape)).astype(np.float32)
    for socket in signature.sockets:
        feeds[f"{socket.name}.A"] = np.zeros((1, socket.in_features, 0), np.float32)
        feeds[f"{socket.name}.B"] = np.zeros((1, 0, socket.out_features), np.float32)
    presents = session.run(signature.present_state_names(), feeds)
    for name, present in zip(signature.past_state_names(), presents, strict=True):
        assert np.array_equal(present[0], feeds[name][0])
        assert not np.array_equal(present[1], feeds[name][1])
