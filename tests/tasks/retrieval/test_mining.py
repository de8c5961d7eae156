"""Hard negatives are near, and never what is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.retrieval_runs import bundle, embedding_run

from ptune.cli import main
from ptune.config.columns import PairColumns
from ptune.data.shapes.pairs import read_pairs
from ptune.tasks.retrieval.mining import mined


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), skip=st.integers(0, 3), margin=st.floats(0.5, 1))
def test_against_sorting_by_hand(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, skip: int, margin: float
) -> None:
    chance = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("mined") / "pairs.jsonl"
    given_rows = [{"anchor": f"a{at // 2}", "positive": f"p{at}"} for at in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given_rows))
    (file,) = read_pairs([path], PairColumns())
    passages = [f"p{at}" for at in range(8)]
    anchors, vectors = (chance.standard_normal((8, 4)) for _ in range(2))
    found = mined(file.rows, anchors, passages, vectors, count=count, skip=skip, margin=margin)
    for at, near in enumerate(found):
        scores = {f"p{other}": float(anchors[at] @ vectors[other]) for other in range(8)}
        own = scores[f"p{at}"]
        limit = own * margin if own > 0 else own / margin
        right = {f"p{at // 2 * 2}", f"p{at // 2 * 2 + 1}"}
        wrong = sorted((text for text in passages if text not in right), key=lambda text: -scores[text])
        assert near == [text for text in wrong if scores[text] <= limit][skip : skip + count]


@pytest.mark.parametrize("source", ["run", "bundle", "backbone"])
def test_the_command_writes_rows_that_can_be_trained_on(kit: Path, tmp_path: Path, source: str) -> None:
    model = {"run": embedding_run().folder, "bundle": bundle(), "backbone": kit / "bert"}[source]
    out = tmp_path / "mined.jsonl"
    words = ["mine", str(model), "--data", str(kit / "pairs.jsonl"), "--out", str(out), "--negatives", "2"]
    adapter = ["--adapter", "finder"] if source == "bundle" else []
    assert main([*words, *adapter]) == 0
    (file,) = read_pairs([out], PairColumns())
    assert len(file.rows) == 32
    assert any(row.negatives for row in file.rows)
    assert all(row.positive not in row.negatives and len(row.negatives) <= 2 for row in file.rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--negatives", "0"], "--negatives must be 1"),
        (["--margin", "2"], "--margin"),
        (["--adapter", "x"], "none"),
    ],
)
def test_what_makes_no_sense_is_refused(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    words = ["mine", str(kit / "bert"), "--data", str(kit / "pairs.jsonl"), "--out", str(tmp_path / "o")]
    assert main([*words, *options]) != 0
    assert said in capsys.readouterr().err
