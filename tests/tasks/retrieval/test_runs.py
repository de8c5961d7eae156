"""A run of retrieval: what it saves is what it trained, for ptune, PEFT and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from support.retrieval_runs import bundle, embedding_run, recipe, reranking_run
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ptune import publish
from ptune.config.retrieval import Embedding, Reranking
from ptune.errors import RecipeError, RequestError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.tasks.encoder.infer import load
from ptune.tasks.retrieval.infer import embed
from ptune.tasks.retrieval.torch_side import load_embeddings
from ptune.verify.encoder.int8 import same_answers

TEXTS = [
    "what is the devil of war",
    "love",
    "the king and the dog, and more of everything than fits into thirty-two " * 3,
]


def entries(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_training_brings_what_belongs_together_nearer() -> None:
    losses = [one["loss"] for one in entries(embedding_run()) if "loss" in one]
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])


def test_the_adapter_is_plain_peft(kit: Path) -> None:
    """PEFT on transformers' own body, pooled by hand."""
    run = embedding_run()

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(kit / "bert", add_pooling_layer=False)
            self.config = self.bert.config

        def forward(self, **inputs: Any) -> Any:
            return self.bert(**{name: value for name, value in inputs.items() if value is not None})

    model = PeftModel.from_pretrained(Holder(), str(run.adapter_path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(kit / "bert")
    expected = []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            hidden = model.base_model(**inputs).last_hidden_state[0]
        expected.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    np.testing.assert_allclose(load_embeddings(run, "cpu")(TEXTS), np.stack(expected), atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_whole_model_opens_in_sentence_transformers(tmp_path: Path, pooling: Any) -> None:
    task = Embedding(max_length=32, pooling=pooling, normalize=pooling != "cls")
    run = train(recipe(task, method=Full(), lr=1e-3, max_steps=2), tmp_path / "run")
    theirs = SentenceTransformer(str(run.model_path), device="cpu").encode(TEXTS)
    ours = load_embeddings(run, "cpu")(TEXTS)
    np.testing.assert_allclose(theirs, ours, atol=2e-6)
    assert (pooling == "cls") != np.allclose(np.linalg.norm(ours, axis=1), 1)


def test_a_merged_adapter_opens_in_sentence_transformers(tmp_path: Path) -> None:
    merge = publish.merge_run(embedding_run(), tmp_path / "merged")
    assert merge.hop.passed
    theirs = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    found = load_embeddings(embedding_run(), "cpu")(TEXTS)
    np.testing.assert_allclose(theirs.encode(TEXTS), found, atol=2e-6)
    base = load_embeddings(embedding_run(), "cpu", trained=False)(TEXTS)
    assert np.abs(base - found).max() > 1e-3
    short = theirs.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    assert short.shape == (3, 8)


@pytest.mark.parametrize("model", ["roberta", "llama"])
def test_other_families(model: str, tmp_path: Path) -> None:
    task = Embedding(max_length=32, pooling="last" if model == "llama" else "mean")
    run = train(recipe(task, model, max_steps=2), tmp_path / "run")
    assert run.record().hops[0].max_abs_logprob == 0
    proof = publish.export_run(run, tmp_path / "bundle", name="tiny", threads=1)
    assert all(hop.passed for hop in proof.hops)


def test_a_bundle_of_both_is_proved_hop_by_hop() -> None:
    opened = Bundle.open(bundle())
    for name, first in (
        ("finder", "torch + peft → ONNX + adapter"),
        ("judge", "torch + peft → ONNX + adapter"),
    ):
        record = opened.adapter(name)
        assert record.parity == "measured"
        names = [hop.name for hop in record.hops]
        assert first in names
        assert "engine → server" in names
        assert all(hop.passed for hop in record.hops)
    vectors = opened.adapter("finder")
    assert vectors.problem == "vector"
    assert vectors.embedding == {"width": 64, "pooling": "mean", "normalize": True, "dimensions": [16, 8]}
    assert any("vector" in hop.limit for hop in vectors.hops)
    assert all(hop.passed for hop in publish.verify(bundle(), threads=1).hops)


def test_a_reranker_is_a_classifier_of_pairs_for_transformers(kit: Path) -> None:
    import ptune
    from ptune.tasks.retrieval.infer import rerank

    base = AutoModelForSequenceClassification.from_pretrained(kit / "bert", num_labels=1)
    model = PeftModel.from_pretrained(base, str(reranking_run().adapter_path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(kit / "bert")
    documents = ["devil and devil with war", "envy without anything"]
    with torch.no_grad():
        expected = [
            float(
                torch.sigmoid(
                    model(
                        **tokenizer("what is the devil", one, return_tensors="pt", return_token_type_ids=True)
                    ).logits
                )[0, 0]
            )
            for one in documents
        ]
    served = ptune.load(bundle(), threads=1)
    try:
        found = rerank(served, "what is the devil", documents, "judge")
    finally:
        served.close()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"have 64 numbers"):
        train(recipe(Embedding(dimensions=(64, 8))), tmp_path / "a")
    with pytest.raises(RecipeError, match=r"batch_size is 1"):
        train(recipe(batch_size=1), tmp_path / "b")
    asked = recipe(Reranking())
    data = asked.data.model_copy(update={"weights": (1.0,)})
    with pytest.raises(RecipeError, match=r"data\.weights"):
        train(asked.model_copy(update={"data": data}), tmp_path / "c")


def test_an_int8_graph_is_held_to_the_same_directions(tmp_path: Path) -> None:
    proof = publish.export_run(
        embedding_run(), tmp_path / "bundle", name="tiny", threads=1, profiles=("fp32", "int8"), anyway=True
    )
    (hop,) = (one for one in proof.hops if one.name == "fp32 → int8")
    assert hop.passed
    assert "cosine" in hop.limit
    turned = [-np.ones((1, 4), np.float32)]
    assert not same_answers("vector", [np.ones((1, 4), np.float32)], turned).passed


def test_vectors_have_no_labels() -> None:
    served = load(bundle(), threads=1)
    try:
        with pytest.raises(RequestError, match="use embed, rerank or recommend"):
            served.classify(["a"], "finder")
        with pytest.raises(RequestError, match="makes no vectors"):
            embed(served, ["a"], "judge")
    finally:
        served.close()
