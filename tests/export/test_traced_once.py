"""What the tests use instead of tracing again is what tracing again gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from support import traced_once
from support.encoder_bundles import build_encoder
from support.seq2seq_models import seq2seq
from support.tiny_models import model
from torch import nn
from transformers import AutoConfig

from ptune.export.decoder import trace as tracing
from ptune.export.decoder.trace import Traced, trace
from ptune.export.encoder.trace import trace_encoder
from ptune.export.fuse import fuse
from ptune.export.weights import ModelWeights, attach
from ptune.formats.signature import Signature
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.reference import random_factors


def said_by(traced: Traced, path: Path) -> tuple[Counter[str], np.ndarray[Any, Any]]:
    """The kinds of nodes after the usual changes, and what the graph computes."""
    signature = traced.signature
    assert isinstance(signature, Signature)
    attach(traced, ModelWeights(model("llama")))
    fuse(traced.graph)
    onnx_ir.save(traced.graph, path)
    ids, factors = [*range(5, 25)], random_factors(signature, 3, 0, 0.3)
    kinds = Counter(node.op_type for node in traced.graph.graph)
    return kinds, PlainGraph(path, signature, 1).logprobs(ids, range(20), factors)


def test_each_use_is_as_a_fresh_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first was changed before the second is made."""
    config = model("llama").config
    used = [said_by(trace(config), tmp_path / f"{name}.onnx") for name in ("first", "second")]
    monkeypatch.setattr(tracing, "onnx_of", traced_once.fresh)
    kinds, computed = said_by(trace(config), tmp_path / "fresh.onnx")
    for others, same in used:
        assert others == kinds
        assert np.array_equal(same, computed)


def test_the_second_use_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    trace(model("llama").config)
    monkeypatch.setattr(traced_once, "fresh", None)
    trace(model("llama", seed=1).config)


def test_an_encoder_is_told_whether_its_attention_was_routed(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(build_encoder(tmp_path / "bert"))
    for _ in range(2):
        traced = trace_encoder(config, prefix="bert.")
        assert "MultiHeadAttention" in {node.op_type for node in traced.graph.graph}


def test_code_that_a_test_changes_traces_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = traced_once.code()
    monkeypatch.setattr(tracing, "with_fixed_rope", lambda config: config)
    assert traced_once.code() != before


def test_buffers_with_weights_are_part_of_it() -> None:
    """BART's bias of the logits."""
    one, same, other = (traced_once.described(seq2seq("bart", seed=seed), ([],), {}) for seed in (0, 0, 1))
    assert one == same != other


def test_a_head_of_its_own_is_part_of_it() -> None:
    """A config may tie the head to the embedding while the checkpoint has both."""
    tied, own = seq2seq("bart"), seq2seq("bart")
    own.lm_head.weight = nn.Parameter(own.lm_head.weight.detach().clone())
    assert traced_once.described(tied, ([],), {}) != traced_once.described(own, ([],), {})
