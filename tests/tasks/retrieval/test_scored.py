"""The pairs that a reranker is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.retrieval_runs import kit, write

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.columns import PairColumns
from ptune.config.recipe import Backbone
from ptune.config.retrieval import Reranking
from ptune.data.shapes.pairs import open_pairs
from ptune.tasks.retrieval.reranking import scored


@pytest.mark.parametrize("sampled", [0, 2])
def test_what_another_row_says_is_right_is_no_wrong_passage(sampled: int, tmp_path: Path) -> None:
    rows = [
        {"anchor": "the king", "positive": "a devil", "negative": ["a dog", "a war", "the king"]},
        {"anchor": "the king", "positive": "a war", "negative": ["a devil", "a church"]},
        {"anchor": "the dog", "positive": "a dog", "negative": ["a war"]},
    ]
    read = open_pairs(write(tmp_path / "rows.jsonl", rows), PairColumns()).rows
    codec = load_sequence_codec(Backbone(model=str(kit() / "bert")))
    found = {
        (tuple(one.ids), one.target) for one in scored(read, Reranking(sampled=sampled), codec, 3).examples
    }

    def pair(anchor: str, passage: str, *, fits: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(codec.encode(anchor, passage, None).ids), (0,) if fits else ()

    for passage in ("a devil", "a war"):
        assert pair("the king", passage, fits=True) in found
        assert pair("the king", passage, fits=False) not in found
    wrong = [("the king", "a dog"), ("the king", "the king"), ("the king", "a church"), ("the dog", "a war")]
    assert all(pair(*one, fits=False) in found for one in wrong)
