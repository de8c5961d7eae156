"""Figures of retrieval are trec_eval's, and agree with scikit-learn's where that has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score
from support.retrieval_runs import bundle, embedding_run, kit, reranking_run

from ptune.cli import main
from ptune.config.columns import PairColumns
from ptune.data.shapes.pairs import read_pairs
from ptune.errors import UsageError
from ptune.evaluation.compare import compare
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import parsed
from ptune.evaluation.retrieval.evaluate import evaluate_run
from ptune.evaluation.retrieval.measures import measure, per_query
from ptune.evaluation.retrieval.queries import Queries


def test_one_right_passage_a_query_as_scikit_learn_counts_it() -> None:
    chance = np.random.default_rng(0)
    scores = chance.standard_normal((40, 60)).astype(np.float32)
    right = chance.integers(0, 60, 40)
    found = measure(scores, [{int(at)} for at in right]).metrics
    marked = np.zeros((40, 60))
    marked[np.arange(40), right] = 1
    for k in (1, 5, 10):
        expected = top_k_accuracy_score(right, scores, k=k, labels=range(60))
        assert found[f"recall@{k}"] == pytest.approx(expected)
    assert found["mrr"] == pytest.approx(label_ranking_average_precision_score(marked, scores))
    assert found["ndcg@10"] == pytest.approx(ndcg_score(marked, scores, k=10))


def test_several_right_passages_and_candidates_only() -> None:
    scores = np.array([[3, 2, 1, -np.inf], [0, 1, -np.inf, 3]], np.float32)
    found = per_query(scores, [{1, 3}, {3}])
    assert found["recall@10"].tolist() == [0.5, 1.0]
    assert found["recall@1"].tolist() == [0.0, 1.0]
    assert found["mrr"].tolist() == [0.5, 1.0]


def test_of_equal_scores_the_earlier_passage_comes_first() -> None:
    found = per_query(np.ones((1, 12), np.float32), [{2}])
    assert found["mrr"][0] == pytest.approx(1 / 3)


def test_a_limit_makes_no_right_passage_wrong(tmp_path: Path) -> None:
    """Of the rows behind the limit, those of a query before it say what else is right."""
    path = tmp_path / "pairs.jsonl"
    rows = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]
    path.write_text("".join(json.dumps({"anchor": one, "positive": two}) + "\n" for one, two in rows))
    pairs = [row for file in read_pairs([path], PairColumns()) for row in file.rows]
    found = Queries.of("test", pairs, ["1", "2", "3", "4"], [], limit=2)
    assert found.queries == ["a", "b"]
    assert found.relevant == [{0, 2}, {1}]
    assert Queries.of("test", pairs, ["1", "2", "3", "4"], []).relevant == [{0, 2}, {1}, {3}]


def test_a_run_is_judged_beside_its_base_and_its_bundle() -> None:
    run = embedding_run()
    found = evaluate_run(
        run, EvaluationOptions(bundle=bundle(), adapter="finder", require=parsed(["recall@10>=0"]), threads=1)
    )
    assert list(found["sides"]) == ["torch", "ONNX", "first 16", "first 8"]
    assert list(found["baselines"]) == ["base", "TF-IDF"]
    assert found["sides"]["torch"]["metrics"] == pytest.approx(found["sides"]["ONNX"]["metrics"])
    assert found["agreement"]["max_abs_p"] < 1e-4
    assert (found["examples"], found["passages"]) == (8, 80)
    low, high = found["intervals"]["recall@10"]
    assert low <= found["metrics"]["recall@10"] <= high
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert len(lines[0]["found"]) == 10
    page = (run.folder / "report.html").read_text()
    assert "NDCG@10" in page
    assert "searched in 80 passages" in page
    assert "MRR" in page
    assert "recall@10" in run.card_path.read_text()


def test_a_reranker_orders_candidates() -> None:
    found = evaluate_run(reranking_run(), EvaluationOptions(bundle=bundle(), adapter="judge", threads=1))
    assert found["candidates"] == 20
    assert found["metrics"]["recall@100"] == 1.0  # the right ones are always among them
    assert found["agreement"]["max_abs_p"] < 1e-3


def test_a_bundle_is_judged_without_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(kit() / "pairs.test.jsonl")
    for adapter in ("finder", "judge"):
        out = tmp_path / adapter
        words = ["evaluate", str(bundle()), "--adapter", adapter, "--data", data, "--out", str(out)]
        assert main([*words, "--require", "mrr>=0"]) == 0
        assert json.loads((out / "evaluation.json").read_text())["passages"] == 16
    assert "NDCG@10" in capsys.readouterr().out


def test_an_unknown_figure_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(UsageError, match=r"recall@10, mrr"):
        evaluate_run(embedding_run(), EvaluationOptions(require=parsed(["accuracy>=0.5"])))


def test_runs_are_compared_query_by_query(tmp_path: Path) -> None:
    run = embedding_run()
    evaluate_run(run, EvaluationOptions(bundle=bundle(), adapter="finder", threads=1))
    other = shutil.copytree(run.folder, tmp_path / "other")
    lines = [json.loads(line) for line in (other / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        line["figures"]["mrr"] /= 2
    (other / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    apart = {one.metric: one.value for one in compare([run.folder, other]).runs[1].differences}
    own = np.mean([2 * line["figures"]["mrr"] for line in lines])
    assert apart == pytest.approx({"mrr": -own / 2, "recall@10": 0.0})
