"""Encoders of many families are traced as transformers computes them, with an adapter in every socket, in any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.encoder_bundles import (
    CONTEXT,
    FAMILIES,
    NAMES,
    SENTIMENT,
    VOCABULARY,
    build_encoder,
    plain,
    tiny,
)

from ptune.export.encoder.parts import save_head, trace_body
from ptune.export.encoder.trace import takes_type_ids
from ptune.export.weights import save
from ptune.formats.signature import EncoderSignature
from ptune.verify.reference import plugged, random_factors

FUSED = {
    "bert": 2,
    "distilbert": 2,
    "llama": 2,
}  # attention layers that are one operator; of the others any number
FAST = ("bert", "distilbert", "roberta", "llama")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAMILIES]
)
@torch.no_grad()
def test_a_body_and_its_head(family: str, tmp_path: Path) -> None:
    base = build_encoder(tmp_path / "base", family)
    model = plain(base, SENTIMENT)
    traced = trace_body(model)
    save(traced, tmp_path / "model.onnx")
    save_head(model, tmp_path / "head.onnx")
    body = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    head = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    signature = traced.signature
    assert isinstance(signature, EncoderSignature)
    factors = random_factors(signature, 3, seed=0, scale=0.3)
    for batch, seq in ((3, 9), (1, CONTEXT - 3), (2, 1)):
        ids = torch.randint(5, len(VOCABULARY), (batch, seq))
        lengths = torch.tensor([seq, max(1, seq // 2), 1][:batch])
        mask = (torch.arange(seq)[None] < lengths[:, None]).long()
        padded = torch.where(
            mask > 0, ids, model.config.pad_token_id
        )  # the graph may be padded with anything
        for rank in (0, 3):
            feeds = {
                "input_ids": ids.numpy(),
                "lengths": lengths.numpy(),
                "lora_mask": np.ones((batch, rank), "f"),
            }
            if signature.type_ids:
                feeds["token_type_ids"] = np.zeros((batch, seq), np.int64)
            for name, (a, b) in factors.items():
                feeds |= {f"{name}.A": a[:, :rank], f"{name}.B": b[:rank]}
            (hidden,) = body.run(["hidden"], feeds)
            (logits,) = head.run(["logits"], {"hidden": hidden, "lengths": lengths.numpy()})
            with plugged(model.base_model, factors if rank else {}):
                expected = model(input_ids=padded, attention_mask=mask).logits.numpy()
            np.testing.assert_allclose(logits, expected, atol=2e-5)
    if family in FUSED:
        graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
        assert sum(node.op_type == "MultiHeadAttention" for node in graph.node) == FUSED[family]


def test_the_head_holds_no_more_than_the_head(tmp_path: Path) -> None:
    model = plain(build_encoder(tmp_path / "base", "bert", hidden_size=64), NAMES)
    save_head(model, tmp_path / "head.onnx")
    initializers = onnx.load(tmp_path / "head.onnx").graph.initializer
    assert sorted(tensor.dims[0] for tensor in initializers if tensor.data_type == 1) == [5, 64]


def test_a_row_does_not_see_its_padding() -> None:
    """Whatever stands behind a text: not even the bits change."""
    bundle = tiny().bundle
    body = onnxruntime.InferenceSession(bundle.graph_path())
    feeds = {name: np.zeros((1, 8), np.int64) for name in ("input_ids", "token_type_ids")}
    feeds |= {"lengths": np.array([5]), "lora_mask": np.zeros((1, 0), "f")}
    for socket in bundle.encoder.sockets:
        feeds[f"{socket.name}.A"] = np.zeros((socket.in_features, 0), "f")
        feeds[f"{socket.name}.B"] = np.zeros((0, socket.out_features), "f")
    feeds["input_ids"][0, :5] = [2, 7, 8, 9, 3]
    (first,) = body.run(None, feeds)
    feeds["input_ids"][0, 5:] = 11
    (second,) = body.run(None, feeds)
    np.testing.assert_array_equal(first[0, :5], second[0, :5])


def test_two_texts_are_told_apart(tmp_path: Path) -> None:
    """Where the model can."""
    assert tiny().bundle.encoder.type_ids
    assert not takes_type_ids(plain(build_encoder(tmp_path / "base", "roberta"), SENTIMENT))
