"""The gradient of a step is that of the mean over its targets, however the step is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support import tiny_models

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.recipe import Train
from ptune.methods.lora import Lora
from ptune.training.checkpoint import Checkpoints, State
from ptune.training.guards.spike_protection import NormHistory
from ptune.training.job import Job
from ptune.training.journal.metrics_log import Journal, read
from ptune.training.loop import fit, optimizer_step
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.preparation import optimizer_for
from ptune.training.rows.segments import packing


def conversations(count: int) -> list[Example]:
    tokenizer = tiny_models.tokenizer()
    codec = ChatCodec(tokenizer.backend_tokenizer, tiny_models.CHATML, {"eos_token": "</s>"}, [2], None)
    return [codec.encode_example(messages) for messages in tiny_models.conversations(count)]


def job(folder: Path, **train_options: Any) -> Job:
    """A float64 job on a tiny model with LoRA; nothing is prepared for distribution."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    options = Train(**{"lr": 1e-3, "batch_size": 6, "micro_batch_tokens": 4096, **train_options})
    accelerator = Accelerator(cpu=True)
    model = Lora(r=3).apply(tiny_models.model("llama").double()).double()
    examples = conversations(18)
    return Job(
        train=options,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer_for(model, options),
        objective=NextTokenObjective(
            True, options.micro_batch_tokens, accelerator.device, plain_head(model.get_base_model())
        ),
        examples=examples[:12],
        validation=examples[12:],
        journal=Journal(folder / "metrics.jsonl", accelerator),
        checkpoints=Checkpoints(folder / "checkpoints", keep=1),
    )


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}


@pytest.mark.parametrize("tokens", [16, 100, 4096])
def test_accumulation_changes_nothing(tmp_path: Path, tokens: int) -> None:
    found = []
    for packed, limit in ((True, tokens), (False, 0)):
        one = job(tmp_path / str(limit), micro_batch_tokens=max(limit, 16))
        assert isinstance(one.objective, NextTokenObjective)
        one = replace(one, objective=replace(one.objective, packed=packed))
        with packing(one.model.get_base_model()) if packed else torch.enable_grad():
            losses = [optimizer_step(one, one.examples[:6], step, 3) for step in range(3)]
        found.append((losses, weights(one)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(tensor, found[1][1][name], rtol=1e-9, atol=1e-12)


def test_a_step_is_that_of_plain_pytorch(tmp_path: Path) -> None:
    """Mean cross-entropy over the targets of the batch, clipped, AdamW: written out with transformers and torch."""
    ours, plain = (
        job(tmp_path, max_grad_norm=0.05, weight_decay=0.1, warmup=0.1),
        job(tmp_path, weight_decay=0.1),
    )
    batch = ours.examples[:6]
    with packing(ours.model.get_base_model()):
        loss = optimizer_step(ours, batch, step=0, steps=10)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in batch:
        logits = plain.model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        for place, wanted in enumerate(example.targets):
            if wanted:
                total, count = total - logits[place - 1, example.ids[place]], count + 1
    (total / count).backward()
    parameters = [parameter for parameter in plain.model.parameters() if parameter.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3 / 2, weight_decay=0.1)  # half-way up
    optimizer.step()
    assert loss == pytest.approx(float(total / count), rel=1e-12)
    (entry,) = read(ours.journal.path)
    assert entry["grad_norm"] == pytest.approx(float(norm), rel=1e-9)
    assert entry["grad_norm"] > 0.05
    assert (entry["targets"], entry["lr"]) == (count, pytest.approx(5e-4))
    for name, tensor in weights(ours).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-9, atol=1e-12)


def test_frozen_weights_get_no_gradient_and_do_not_move(tmp_path: Path) -> None:
    one = job(tmp_path)
    before = weights(one)
    with packing(one.model.get_base_model()):
        score = one.objective.score(one.model, next(one.objective.batches(one.examples)))
        score.loss.backward()
        assert {"lora_" in name for name, p in one.model.named_parameters() if p.grad is not None} == {True}
        one.optimizer.zero_grad()
        fit(one, State())
    moved = {name for name, tensor in weights(one).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_validation_is_the_mean_over_all_targets(tmp_path: Path) -> None:
    one = job(tmp_path, max_steps=1, lr=1e-12)
    with packing(one.model.get_base_model()):
        state, ending = fit(one, State())
    with torch.no_grad():
        rows = [(one.model(torch.tensor([e.ids])).logits[0].log_softmax(-1), e) for e in one.validation]
    losses = [-logits[i - 1, e.ids[i]] for logits, e in rows for i, wanted in enumerate(e.targets) if wanted]
    right = [
        logits[i - 1].argmax() == e.ids[i]
        for logits, e in rows
        for i, wanted in enumerate(e.targets)
        if wanted
    ]
    (entry,) = [entry for entry in read(one.journal.path) if "validation_loss" in entry]
    assert entry["validation_loss"] == pytest.approx(float(sum(losses)) / len(losses), rel=1e-9)
    assert entry["validation_accuracy"] == pytest.approx(float(sum(right)) / len(right))
    assert (state.best_step, state.best_loss, ending) == (1, entry["validation_loss"], "finished")


def spiked(folder: Path, **options: Any) -> list[dict[str, Any]]:
    """The journal of 40 steps, the last of which has gradients 50 times as long."""
    one = job(folder, max_steps=40, validate_every=40, lr=1e-4, **options)
    step = {"number": 0}

    def longer(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 50 if step["number"] == 39 else gradient

    for parameter in one.model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(longer)
    callback = lambda info: step.update(number=info.step)  # noqa: E731
    with packing(one.model.get_base_model()):
        fit(replace(one, callbacks=(callback,)), State())
    return [entry for entry in read(one.journal.path) if "loss" in entry]


def test_a_spike_is_cut_to_the_usual_norm_and_recorded(tmp_path: Path) -> None:
    entries = spiked(tmp_path / "on")
    usual = max(entry["grad_norm"] for entry in entries[:39])
    assert entries[-1]["grad_norm"] > 20 * usual
    assert entries[-1]["spike_cut_to"] < usual
    assert sum("spike_cut_to" in entry for entry in entries) <= 2
    assert not any("spike_cut_to" in entry for entry in spiked(tmp_path / "off", spike_protection="none"))


def test_a_cut_gradient_is_that_of_plain_pytorch(tmp_path: Path) -> None:
    ours, plain = job(tmp_path / "a", max_grad_norm=0), job(tmp_path / "b")
    ours = replace(ours, norms=NormHistory(steps=25, mean=0.01, variance=1e-6))
    with packing(ours.model.get_base_model()):
        optimizer_step(ours, ours.examples[:6], step=0, steps=10)
    (entry,) = read(ours.journal.path)
    deviations = (entry["grad_norm"] - 0.01) / 1e-3
    assert deviations > 10
    assert entry["spike_cut_to"] == pytest.approx(0.01 + 2.5**2 / deviations * 1e-3, rel=1e-9)
    with packing(plain.model.get_base_model()):
        optimizer_step(
            replace(plain, train=plain.train.model_copy(update={"max_grad_norm": entry["spike_cut_to"]})),
            plain.examples[:6],
            step=0,
            steps=10,
        )
    for name, tensor in weights(ours).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=0, atol=0)
