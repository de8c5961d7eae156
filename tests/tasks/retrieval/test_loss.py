"""The loss is sentence-transformers' own, and its gradient the same however a batch is parted into passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ptune.backbone.classifier import load_sequence_codec
from ptune.backbone.embedder import Embedder, load_embedder
from ptune.config.recipe import Backbone
from ptune.data.examples.pairs import PairExample
from ptune.tasks.retrieval.loss import contrastive, layout_of
from ptune.tasks.retrieval.train import EmbeddingObjective
from ptune.training.layers.dropout import set_dropout
from ptune.training.rows.packing import Share

CPU = torch.device("cpu")


def examples_of(model: Path, count: int = 9) -> list[PairExample]:
    codec = load_sequence_codec(Backbone(model=str(model)))

    def ids(text: str) -> tuple[int, ...]:
        return codec.encode(text, max_length=32).ids

    return [
        PairExample(
            ids(f"number {at} {'of many ' * at}"), ids(f"the answer {at} of devils"), (ids(f"wrong {at}"),)
        )
        for at in range(count)
    ]


def network_of(model: Path, pooling: Any = "mean") -> Embedder:
    network = load_embedder(Backbone(model=str(model)), pooling, True, device="cpu").model.double()
    return network.requires_grad_(True)


def objective_of(
    model: Path, most: int, sizes: tuple[int, ...] = (), batch_size: int = 16
) -> EmbeddingObjective:
    codec = load_sequence_codec(Backbone(model=str(model)))
    return EmbeddingObjective(0.05, sizes, batch_size, most, CPU, codec.pad_id, codec.type_ids)


def gradients(
    objective: EmbeddingObjective, network: Embedder, examples: list[PairExample], share: Share = Share(0, 1)
) -> tuple[int, float, float, dict[str, torch.Tensor]]:
    """Passes, loss, targets and gradients."""
    network.zero_grad()
    loss, targets, passes = 0.0, 0.0, 0
    for one in objective.batches(examples, share):
        score = objective.score(network, one)
        score.loss.backward()
        loss, targets, passes = loss + float(score.loss.detach()), targets + score.targets, passes + 1
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return passes, loss, targets, found


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("model", ["bert", "llama"])
def test_cached_gradients_are_those_of_the_whole_batch(kit: Path, model: str, pooling: str) -> None:
    network, examples = network_of(kit / model, pooling).eval(), examples_of(kit / model)
    whole = gradients(objective_of(kit / model, 100_000, (8,)), network, examples)
    parted = gradients(objective_of(kit / model, 40, (8,)), network, examples)
    assert whole[0] == 1
    assert parted[0] > 4
    assert parted[1] == pytest.approx(whole[1], abs=1e-9)
    assert parted[2] == whole[2] == len(examples)
    assert whole[3].keys() == parted[3].keys()
    assert max(float(grad.abs().max()) for grad in whole[3].values()) > 1e-2
    for name, grad in whole[3].items():
        torch.testing.assert_close(parted[3][name], grad, rtol=0, atol=1e-9)


def test_both_computations_of_a_pass_draw_the_same_dropout(kit: Path) -> None:
    """The surrogate's gradient belongs to the vectors that the loss saw only if chance repeats itself."""
    network, examples = network_of(kit / "bert"), examples_of(kit / "bert")
    set_dropout(network, 0.5)
    network.train()
    objective = objective_of(kit / "bert", 40)
    torch.manual_seed(0)
    seen: list[torch.Tensor] = []
    given = objective.vectors

    def spied(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        found = given(model, batch)
        seen.append(found.detach().clone())
        return found

    object.__setattr__(objective, "vectors", spied)
    passes = gradients(objective, network, examples)[0]
    assert len(seen) == 2 * passes
    for first, second in zip(seen[:passes], seen[passes:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], given(network, next(iter(objective.batches(examples)))))


def test_the_loss_is_that_of_sentence_transformers(kit: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    network, examples = network_of(kit / "bert").eval(), examples_of(kit / "bert", 6)
    objective = objective_of(kit / "bert", 100_000)
    (batch,) = objective.batches(examples)
    vectors = network(**batch.inputs).logits.detach()
    by_text = dict(zip([batch.group.layout.texts[at] for at in batch.texts], vectors, strict=True))
    columns = [
        torch.stack([by_text[text] for text in texts])
        for texts in zip(*(one.texts for one in examples), strict=True)
    ]
    theirs = MultipleNegativesRankingLoss(cast("Any", None), scale=20.0).compute_loss_from_embeddings(
        columns, None
    )
    assert float(objective.score(network, batch).loss) / 6 == pytest.approx(float(theirs), abs=1e-9)


def test_matryoshka_is_the_mean_over_sizes() -> None:
    layout = layout_of([PairExample((at,), (10 + at,), ((20 + at,),)) for at in range(5)])
    vectors = torch.randn(
        len(layout.texts), 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    alone = [contrastive(vectors[:, :size], layout, 0.1)[0] for size in (12, 8, 4)]
    together, _ = contrastive(vectors, layout, 0.1, (8, 4))
    assert float(together) == pytest.approx(float(sum(alone)) / 3, abs=1e-12)


def test_what_is_right_is_never_wrong() -> None:
    """Another row's positive for the same anchor, a passage that stands twice, and the anchor's own words."""
    examples = [
        PairExample((1,), (2,)),
        PairExample((1,), (3,)),
        PairExample((4,), (2,)),
        PairExample((5,), (1,)),
    ]
    layout = layout_of(examples)
    assert [layout.texts[at] for at in layout.candidates] == [(2,), (3,), (1,)]
    assert layout.own.tolist() == [0, 1, 0, 2]
    assert layout.excluded.tolist() == [
        [False, True, True],
        [True, False, True],
        [False, False, False],
        [False, False, False],
    ]


def test_processes_together_pass_over_every_text_once(kit: Path) -> None:
    objective, examples = objective_of(kit / "bert", 60), examples_of(kit / "bert")
    parts = [list(objective.batches(examples, Share(process, 3))) for process in range(3)]
    assert len({len(part) for part in parts}) == 1
    texts = [at for part in parts for one in part for at in one.texts]
    assert sorted(texts) == list(range(len(parts[0][0].group.layout.texts)))


def test_more_rows_than_a_batch_are_parted_evenly(kit: Path) -> None:
    objective, examples = objective_of(kit / "bert", 100_000, batch_size=4), examples_of(kit / "bert")
    groups = [one.group.targets for one in objective.batches(examples)]
    assert groups == [3, 3, 3]
