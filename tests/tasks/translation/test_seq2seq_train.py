"""The loss of an encoder-decoder against transformers' own."""

from __future__ import annotations

import pytest
import torch
from support.seq2seq_models import SEQ2SEQ, seq2seq
from transformers import GenerationConfig, PreTrainedModel

from ptune.backbone.seq2seq import writing_of
from ptune.data.examples.seq2seq import Seq2SeqExample
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.translation.seq2seq_train import Seq2SeqObjective
from ptune.training.loss.head import plain_head
from ptune.training.rows.packing import Share

PAIRS = [
    Seq2SeqExample((11, 12, 13, 2), (21, 22, 2)),
    Seq2SeqExample((31, 32, 33, 34, 35, 36, 2), (41, 2)),
    Seq2SeqExample((51, 2), (61, 62, 63, 64, 65, 2)),
    Seq2SeqExample((71, 72, 2), (81, 82, 83, 2)),
]


def _objective(model: PreTrainedModel, most: int = 64, head: bool = False) -> Seq2SeqObjective:
    writing = writing_of(model.generation_config or GenerationConfig(), model.config)
    found = plain_head(model) if head else None
    return Seq2SeqObjective(writing, 0, most, torch.device("cpu"), model, found)


def _one_by_one(model: PreTrainedModel) -> torch.Tensor:
    """transformers' own loss of each pair alone, unpadded, summed over the targets; labels are shifted by the model."""
    losses = [
        model(input_ids=torch.tensor([one.source]), labels=torch.tensor([one.target])).loss * len(one.target)
        for one in PAIRS
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("most", [8, 30, 200])
def test_a_padded_batch_has_the_loss_of_its_pairs_alone(family: str, most: int) -> None:
    model = seq2seq(family).double()
    objective = _objective(model, most)
    scores = [objective.score(model, batch) for batch in objective.batches(PAIRS)]
    assert sum(score.targets for score in scores) == 15
    assert float(sum(score.loss for score in scores)) == pytest.approx(float(_one_by_one(model)), abs=1e-9)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_gradients_through_lora_are_those_of_the_plain_loss(family: str) -> None:
    model = seq2seq(family).double()
    objective = _objective(model)
    adapted = Lora(r=4).apply(model).double()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    sum(objective.score(adapted, batch).loss for batch in objective.batches(PAIRS)).backward()
    ours = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad}
    adapted.zero_grad()
    _one_by_one(adapted).backward()
    plain = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    assert {"encoder", "decoder"} <= {part for name in ours for part in name.split(".")}
    assert any("EncDecAttention" in name or "encoder_attn" in name for name in ours)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_the_head_can_compute_the_loss_itself(family: str) -> None:
    model = seq2seq(family)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.zero_()
    with_logits, by_head = _objective(model), _objective(model, head=True)
    assert by_head.head is not None
    for training in (False, True):
        model.train(training)
        for left, right in zip(with_logits.batches(PAIRS), by_head.batches(PAIRS), strict=True):
            a, b = with_logits.score(model, left), by_head.score(model, right)
            torch.testing.assert_close(a.loss, b.loss)
            assert int(a.correct) == int(b.correct)
    assert tuple(model(torch.tensor([[5]]), decoder_input_ids=torch.tensor([[5]])).logits.shape) == (
        1,
        1,
        600,
    )


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_a_bias_of_the_logits_keeps_the_models_own_head(family: str) -> None:
    assert plain_head(seq2seq(family)) is None


def test_every_process_has_as_many_batches_and_no_target_is_lost() -> None:
    objective = _objective(seq2seq("t5"), most=1000)
    for processes in (1, 2, 3, 5):
        own = [[*objective.batches(PAIRS, Share(at, processes))] for at in range(processes)]
        assert len({len(batches) for batches in own}) == 1
        assert sum(len(batch.labels) for batches in own for batch in batches) == 15


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_lora_reaches_encoder_decoder_and_cross_attention_and_not_the_head(family: str) -> None:
    adapted = Lora(r=2).apply(seq2seq(family))
    assert adapted.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    linears = {n for n, m in seq2seq(family).named_modules() if type(m) is torch.nn.Linear} - {"lm_head"}
    reached = {
        n.split(".lora_A")[0].removeprefix("base_model.model.")
        for n, _ in adapted.named_parameters()
        if "lora_A" in n
    }
    assert reached == linears


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_freeze_trains_the_decoders_last_block_and_full_everything(family: str) -> None:
    frozen = FreezeExceptLast(layers=1).apply(seq2seq(family))
    trained = {name for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("decoder" in name for name in trained)
    blocks = {name for name in trained if ".layers." in name or ".block." in name}
    last = "1" if family in ("t5", "flan") else "2"
    assert blocks
    assert all(
        name.split(".layers." if ".layers." in name else ".block.")[1].split(".")[0] == last
        for name in blocks
    )
    full = Full().apply(seq2seq(family))
    still = {name for name, parameter in full.named_parameters() if not parameter.requires_grad}
    assert still == {name for name in still if "embed_positions" in name}
    assert bool(still) == (family == "marian")  # its sinusoids are worked out anew whenever it is read
