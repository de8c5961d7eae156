"""A run of recommendation: its items lie beside its adapter, are proved and judged."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.recommendation_runs import NAME, TITLES, bundle, kit, recipe, run

import ptune
from ptune import publish
from ptune.data.shapes.interactions import read_interactions
from ptune.errors import RecipeError, RequestError, UsageError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import parsed
from ptune.evaluation.retrieval.recommend import evaluate_run, popular, users_of
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.methods.full import Full
from ptune.tasks.recommendation.index import ARRAYS, ItemIndex
from ptune.tasks.recommendation.infer import RecommendQuery, Title, recommend
from ptune.tasks.retrieval.torch_side import load_embeddings
from ptune.verify.encoder.item_index import with_items
from ptune.verify.proof import Proof


def test_the_items_hold_torchs_vectors_and_nothing_of_the_test() -> None:
    index, found = ItemIndex.open(run().adapter_path), read_interactions(recipe())
    assert dict(zip(index.items, index.titles, strict=True)) == TITLES
    np.testing.assert_allclose(index.vectors, load_embeddings(run(), "cpu")(list(TITLES.values())), atol=2e-6)
    had = np.zeros((len(found.histories), len(TITLES)))
    for row, history in enumerate(found.histories):
        had[row, [found.place[one.item] for one in history.kept[:-1]]] = 1
    counts = had.T @ had
    expected = counts / np.sqrt(np.outer(np.diag(counts), np.diag(counts)))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(
        np.stack([index.scores([at], weight=1.0) for at in range(len(TITLES))]), expected, atol=1e-6
    )


def test_a_bundle_is_proved_to_serve_the_same_vectors() -> None:
    record = Bundle.open(bundle()).adapter(NAME)
    (hop,) = (hop for hop in record.hops if hop.name == "torch → item vectors served")
    assert hop.passed
    assert hop.prompts == len(TITLES)
    assert ARRAYS in record.files
    assert (record.embedding or {})["items"] == len(TITLES)
    assert all(hop.passed for hop in publish.verify(bundle(), threads=1).hops)


def test_an_adapter_that_is_added_brings_its_items(tmp_path: Path) -> None:
    from support import retrieval_runs

    folder = shutil.copytree(retrieval_runs.bundle(), tmp_path / "bundle")
    record = publish.add(folder, run().adapter_path, "more", threads=1)
    assert ARRAYS in record.files
    assert record.hops[-1].name == "torch → item vectors served"
    assert record.hops[-1].passed


def test_other_vectors_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ItemIndex.open(run().adapter_path)
    turned = replace(found, vectors=np.roll(found.vectors, 1, axis=0))
    monkeypatch.setattr(ItemIndex, "open", lambda _: turned)
    proof = with_items(Bundle.open(bundle()), Proof((), {NAME: ()}), 1)
    assert not proof.passed


def test_the_library_recommends_what_the_index_ranks_first() -> None:
    model = ptune.load(bundle(), threads=1)
    try:
        found = recommend(model, RecommendQuery(["i1", "i2"], k=3), NAME)
        index = ItemIndex.open(run().adapter_path)
        scores = index.scores([1, 2])
        scores[[1, 2]] = -np.inf
        assert found[0].score == pytest.approx(float(scores.max()), abs=1e-6)
        near = recommend(model, RecommendQuery([Title(TITLES["i4"])], k=1, weight=0.0), NAME)
        assert near[0].score == pytest.approx(1.0, abs=1e-4)
    finally:
        model.close()


def test_a_run_is_judged_beside_counting() -> None:
    found = evaluate_run(
        run(), EvaluationOptions(bundle=bundle(), require=parsed(["recall@10>=0"]), threads=1)
    )
    assert list(found["sides"]) == ["torch", "ONNX"]
    assert list(found["baselines"]) == ["item-kNN", "popularity", "titles", "titles, base"]
    assert (found["examples"], found["passages"], found["split"]) == (30, 20, "test")
    assert found["agreement"]["max_abs_p"] < 1e-4
    page = (run().folder / "report.html").read_text()
    assert "NDCG@10" in page
    lines = [json.loads(line) for line in (run().folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 30
    seen = {line["query"].split(":")[0]: line for line in lines}
    assert len(seen) == 30
    with pytest.raises(UsageError, match="--data"):
        evaluate_run(run(), EvaluationOptions(data=(Path("x"),)))


def test_popularity_counts_all_users_however_few_are_asked() -> None:
    """It counted the users that are judged: of three of them, next to nothing."""
    found = read_interactions(recipe())
    few, every = users_of(found, [], 3), users_of(found, [])
    held = {one.user: one.kept[-1].item for one in found.histories if len(one.kept) > 1}
    counted = Counter(row.item for row in found.rows if held.get(row.user) != row.item)
    assert few.had == every.had == [counted[item] for item in found.titles]
    for row, history in zip(popular(few), few.histories, strict=True):
        left = [at for at in range(len(TITLES)) if at not in history]
        assert [int(row[at]) for at in left] == [few.had[at] for at in left]


def test_withheld_items_are_looked_for_by_title_alone(tmp_path: Path) -> None:
    asked = recipe(task={"withheld": 4}, max_steps=2)
    cold = train(asked, tmp_path / "run")
    found, index = read_interactions(asked), ItemIndex.open(cold.adapter_path)
    gone = [found.place[item] for item in found.withheld]
    rows = np.stack([index.scores([at], weight=1.0) for at in range(len(TITLES))])
    assert not rows[gone].any()
    assert not rows[:, gone].any()
    users = users_of(found, [])
    assert users.cold
    assert all(right < set(gone) or right <= set(gone) for right in users.queries.relevant)
    for left_out, right in zip(users.left_out, users.queries.relevant, strict=True):
        assert not set(left_out) & right
    said = evaluate_run(cold, EvaluationOptions(threads=1))
    assert list(said["baselines"]) == ["titles, base"]
    assert "that training never saw" in (tmp_path / "run" / "report.html").read_text()


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="method Lora"):
        train(recipe(method=Full()), tmp_path / "a")
    with pytest.raises(RecipeError, match="batch_size of 2"):
        train(recipe(batch_size=1), tmp_path / "b")
    with pytest.raises(UsageError, match="without --merge"):
        publish.export_run(run(), tmp_path / "c", name=NAME, merge=True, threads=1)


def test_an_adapter_without_items_recommends_nothing() -> None:
    from support import retrieval_runs

    model = ptune.load(retrieval_runs.bundle(), threads=1)
    try:
        with pytest.raises(RequestError, match="no items to recommend"):
            recommend(model, RecommendQuery(["i1"]), retrieval_runs.EMBEDS)
    finally:
        model.close()


def test_a_bundle_is_judged_by_who_had_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the users that it was trained on: the figures of what it serves are those of its run's evaluation."""
    from ptune.cli import main

    had, out = kit() / "had.jsonl", tmp_path / "judged"
    assert main(["evaluate", str(bundle()), "--data", str(had), "--out", str(out)]) == 0
    said = json.loads((out / "evaluation.json").read_text())
    assert (said["examples"], said["passages"], said["split"]) == (30, 20, "given")
    assert list(said["baselines"]) == ["item-kNN", "popularity", "titles"]
    own = evaluate_run(run(), EvaluationOptions(bundle=bundle(), threads=1))["sides"]["ONNX"]["metrics"]
    assert said["metrics"] == pytest.approx(own, abs=0.05)
    assert (out / "report.html").is_file()
    other = tmp_path / "other.jsonl"
    other.write_text('{"user": "a", "item": "i1"}\n{"user": "a", "item": "gone"}\n')
    capsys.readouterr()
    assert main(["evaluate", str(bundle()), "--data", str(other), "--out", str(out)]) != 0
    assert "line 2: there is no item 'gone'" in " ".join(capsys.readouterr().err.split())
    other.write_text('{"user": "a", "item": "i1"}\n{"user": "b", "item": "i2"}\n')
    assert main(["evaluate", str(bundle()), "--data", str(other), "--out", str(out)]) != 0
    assert "no user has two items" in " ".join(capsys.readouterr().err.split())
