"""The loss of texts and words is transformers' own, however the examples are batched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from ptune.backbone.classifier import load_classifier, load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.config.recipe import Backbone
from ptune.data.examples.sequences import SequenceExample, example_of
from ptune.data.shapes.labelled import LabelledRow
from ptune.tasks.encoder.train import Loss, SequenceObjective, balanced
from ptune.training.rows.packing import Share
from ptune.training.rows.padding import padded_rows

CPU = torch.device("cpu")
TEXTS = ["the devil", "love and war and so much more of everything", "x", "number seven of the devils"]
CASES: dict[str, tuple[Labels, list[Any]]] = {
    "single": (Labels(("a", "b", "c"), "single"), [2, 0, 1, 1]),
    "multi": (Labels(("a", "b", "c"), "multi"), [(0, 2), (), (1,), (0, 1, 2)]),
    "regression": (Labels(("value",), "regression"), [0.5, -2.0, 3.25, 0.0]),
    "tags": (Labels(("O", "B-X", "I-X"), "tags"), []),
}


def examples_of(problem: str, model: Path) -> list[SequenceExample]:
    labels, targets = CASES[problem]
    codec = load_sequence_codec(Backbone(model=str(model)))
    rows: list[tuple[Any, Any]] = [(text, target) for text, target in zip(TEXTS, targets, strict=False)]
    if problem == "tags":
        rows = [(tuple(text.split()), tuple(at % 3 for at, _ in enumerate(text.split()))) for text in TEXTS]
    return [example_of(LabelledRow(text, target, ""), labels, codec, 64)[0] for text, target in rows]


def objective_of(problem: str, model: Path, most: int = 10_000, **loss: Any) -> SequenceObjective:
    codec = load_sequence_codec(Backbone(model=str(model)))
    return SequenceObjective(Loss(CASES[problem][0], **loss), most, CPU, codec.pad_id, codec.type_ids)


def model_of(problem: str, folder: Path, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    kind = "tokens" if problem == "tags" else "text"
    return load_classifier(Backbone(model=str(folder)), kind, CASES[problem][0], device="cpu").model.to(dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["bert", "distilbert", "roberta", "llama"])
@pytest.mark.parametrize("problem", CASES)
def test_the_loss_is_transformers_own(kit: Path, problem: str, model: str) -> None:
    objective, network = objective_of(problem, kit / model), model_of(problem, kit / model)
    examples = examples_of(problem, kit / model)
    (batch,) = objective.batches(examples)
    labels = batch.labels.double() if batch.labels.is_floating_point() else batch.labels
    if batch.columns is not None:
        labels = torch.full(batch.inputs["input_ids"].shape, -100)
        labels[batch.rows, batch.columns] = batch.labels
    expected = network(**batch.inputs, labels=labels).loss
    score = objective.score(network, batch)
    assert score.targets == sum(map(objective.targets, examples))
    torch.testing.assert_close(score.loss / score.targets, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["bert", "distilbert", "roberta", "llama"])
@pytest.mark.parametrize("problem", CASES)
def test_a_padded_batch_is_its_examples_one_by_one(kit: Path, problem: str, model: str) -> None:
    objective, network = objective_of(problem, kit / model), model_of(problem, kit / model)
    examples = examples_of(problem, kit / model)
    together = [objective.score(network, batch) for batch in objective.batches(examples)]
    alone = [objective.score(network, batch) for one in examples for batch in objective.batches([one])]
    assert (len(together), len(alone)) == (1, 4)
    difference = float(together[0].loss) - sum(float(score.loss) for score in alone)
    assert abs(difference) < 1e-5 if model == "llama" else abs(difference) < 1e-9  # rotary tables are float32
    assert together[0].targets == sum(score.targets for score in alone)
    if problem != "regression":
        assert int(together[0].correct) == sum(int(score.correct) for score in alone)


@pytest.mark.parametrize("problem", CASES)
def test_processes_share_the_batches_of_a_step(kit: Path, problem: str) -> None:
    objective, network = objective_of(problem, kit / "bert", 24), model_of(problem, kit / "bert")
    examples = examples_of(problem, kit / "bert")
    whole = sum(float(objective.score(network, batch).loss) for batch in objective.batches(examples))
    shared = [list(objective.batches(examples, Share(process, 3))) for process in range(3)]
    assert len({len(batches) for batches in shared}) == 1
    scores = [objective.score(network, batch) for batches in shared for batch in batches]
    assert sum(float(score.loss) for score in scores) == pytest.approx(whole, abs=1e-9)
    assert sum(score.targets for score in scores) == sum(map(objective.targets, examples))


def test_a_process_without_an_example_has_no_target_but_a_gradient(kit: Path) -> None:
    for problem in CASES:
        objective, network = objective_of(problem, kit / "bert"), model_of(problem, kit / "bert")
        network.requires_grad_(True)
        (batch,) = objective.batches(examples_of(problem, kit / "bert")[:1], Share(1, 2))
        score = objective.score(network, batch)
        score.loss.backward()
        assert (score.targets, float(score.loss)) == (0, 0.0)
        assert network.classifier.weight.grad is not None


@pytest.mark.parametrize(
    "options", [{}, {"smoothing": 0.2}, {"weights": torch.tensor([0.5, 2.0, 1.0]).double()}]
)
@pytest.mark.parametrize("most", [10_000, 24])
@pytest.mark.parametrize("problem", CASES)
def test_weight_2_is_a_row_twice_and_weight_0_none(
    kit: Path, problem: str, most: int, options: dict[str, Any]
) -> None:
    loss = {} if problem == "regression" else options
    objective, network = objective_of(problem, kit / "bert", most, **loss), model_of(problem, kit / "bert")
    a, b, c, d = examples_of(problem, kit / "bert")
    network.requires_grad_(True).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def told(examples: list[SequenceExample]) -> tuple[float, torch.Tensor]:
        network.zero_grad()
        scores = [objective.score(network, batch) for batch in objective.batches(examples)]
        wanted = sum(map(objective.targets, examples))
        assert sum(score.targets for score in scores) == pytest.approx(wanted, rel=1e-12)
        mean = torch.stack([score.loss for score in scores]).sum() / wanted
        mean.backward()
        gradients = [one.grad.flatten() for one in network.parameters() if one.grad is not None]
        return float(mean.detach()), torch.cat(gradients)

    weighted = [replace(a, weight=2.0), replace(b, weight=0.0), c, replace(d, weight=3.0)]
    (loss_found, found), (loss_wanted, wanted) = told(weighted), told([a, a, c, d, d, d])
    assert loss_found == pytest.approx(loss_wanted, rel=1e-9)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert loss_found != pytest.approx(told([a, b, c, d])[0], rel=1e-6)
    if problem != "regression":
        best = objective.constant_loss([a, a, c, d, d, d])
        assert objective.constant_loss(weighted) == pytest.approx(best, rel=1e-12)
    network.eval()
    for plain, other in zip(objective.batches([a, c]), objective.batches([weighted[0], c]), strict=True):
        assert torch.equal(objective.score(network, plain).loss, objective.score(network, other).loss)


@pytest.mark.parametrize("problem", ["single", "tags"])
def test_balanced_weights_are_those_of_scikit_learn(kit: Path, problem: str) -> None:
    examples = examples_of(problem, kit / "bert")
    labels = CASES[problem][0]
    flat = [index for e in examples for index in (e.target if isinstance(e.target, tuple) else (e.target,))]
    expected = compute_class_weight("balanced", classes=np.unique(flat), y=flat)
    np.testing.assert_allclose(balanced(examples, labels).numpy(), expected, rtol=1e-6)
    weighted = Loss(labels, balanced(examples, labels))
    logits = torch.randn(len(flat), 3)
    own = torch.nn.functional.cross_entropy(logits, torch.tensor(flat), weight=weighted.weights)
    torch.testing.assert_close(weighted(logits, torch.tensor(flat)) / len(flat), own)


def test_balanced_weights_of_several_labels_and_of_an_absent_one(kit: Path) -> None:
    multi = examples_of("multi", kit / "bert")
    assert balanced(multi, CASES["multi"][0]).tolist() == [1.0, 1.0, 1.0]
    assert balanced(multi[:2], CASES["multi"][0]).tolist() == [1.0, 1.0, 1.0]
    assert balanced(multi[:3], CASES["multi"][0]).tolist() == [2.0, 2.0, 2.0]
    single = examples_of("single", kit / "bert")
    assert balanced(single[:2], CASES["single"][0]).tolist() == [1.0, 1.0, 1.0]


def test_smoothing_spreads_a_share_of_the_target() -> None:
    logits, wanted = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    loss = Loss(CASES["single"][0], smoothing=0.1)(logits, wanted)
    torch.testing.assert_close(
        loss, torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")(logits, wanted)
    )
    present = torch.tensor([[1.0, 0.0, 0.0]])
    loss = Loss(CASES["multi"][0], smoothing=0.2)(logits[:1], present)
    expected = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits[:1], torch.tensor([[0.9, 0.1, 0.1]]))
    torch.testing.assert_close(loss, expected)


@given(
    lengths=st.lists(st.integers(1, 40), max_size=30), most=st.integers(16, 120), processes=st.integers(1, 5)
)
@settings(max_examples=200)
def test_batches_hold_every_example_once_and_no_more_than_fit(
    lengths: list[int], most: int, processes: int
) -> None:
    batches = padded_rows(lengths, most, processes)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) % processes == 0
    for batch in batches:
        assert len(batch) <= 1 or len(batch) * max(lengths[index] for index in batch) <= most
        assert [lengths[index] for index in batch] == sorted((lengths[i] for i in batch), reverse=True)
