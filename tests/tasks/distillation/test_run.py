"""A student learns what its teacher says, resumes to the byte, and goes on as any run for chat."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import tiny_models

from ptune.backbone.load import load, load_codec
from ptune.config.chat import Chat
from ptune.config.distillation import Distillation
from ptune.data.examples import dataset
from ptune.data.teacher.labels import TeacherLabels
from ptune.errors import DataError, FormatError, PtuneError, RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.distillation.labelling import label
from ptune.tasks.distillation.objective import DistillationObjective, LabelledExamples
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.packing import Share
from ptune.training.rows.segments import packing

from .conftest import Kit, Make

CPU = torch.device("cpu")
WEIGHTS = ("adapter_model.safetensors", "ptune.json")


def losses_of(run: Run) -> list[float]:
    return [entry["loss"] for entry in read(run.metrics_path) if "loss" in entry]


def pause_after_three(info: StepInfo) -> None:
    if info.step == 3:
        info.pause()


def examples_of(make: Make, labels: Path) -> LabelledExamples:
    recipe = make()
    codec = codec_for(recipe.chat, load_codec(recipe.backbone))
    made = dataset.load(recipe.data, recipe.chat, codec, recipe.train.seed)
    return LabelledExamples(made.train, TeacherLabels.open(labels))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("plain", [True, False], ids=["in the head", "of logits"])
def test_the_loss_is_the_divergence_from_the_teacher_itself(
    kit: Kit, make: Make, packed: bool, plain: bool, tmp_path: Path
) -> None:
    """The teacher's logits by transformers, over the whole vocabulary, against labels by the engine with none left out."""
    vocab = len(tiny_models.tokenizer())
    labels = label(make(), kit.teacher.folder, tmp_path / "labels", adapter="wide", top=vocab)
    examples = examples_of(make, labels)[:4]
    model = load(make().backbone).model.train()
    wanted = 0.0
    for one in examples:
        ids, at = list(one.example.ids), [n - 1 for n, flag in enumerate(one.example.targets) if flag and n]
        own = model(torch.tensor([ids])).logits[0][at]
        its = torch.from_numpy(kit.teacher.logits(ids, "wide"))[at][:, :vocab].log_softmax(1)
        theirs = F.pad(its, (0, own.shape[1] - vocab), value=-torch.inf)  # rows that are no tokens
        divergence = (theirs.exp() * (theirs - own.log_softmax(1))).nan_to_num(0).sum()
        entropy = F.cross_entropy(own, torch.tensor([ids[n + 1] for n in at]), reduction="sum")
        wanted += float(0.3 * entropy + 0.7 * divergence)
    with packing(model) as can:
        next_token = NextTokenObjective(can and packed, 4096, CPU, plain_head(model) if plain else None)
        objective = DistillationObjective(next_token, 0.7, 1.0)
        scores = [objective.score(model, batch) for batch in objective.batches(examples)]
    assert float(sum(score.loss.detach() for score in scores)) == pytest.approx(wanted, rel=1e-4)
    assert sum(score.targets for score in scores) == sum(map(objective.targets, examples))


def test_validation_is_the_cross_entropy_of_any_run(kit: Kit, make: Make) -> None:
    examples = examples_of(make, kit.folder / "labels")[:4]
    model = load(make().backbone).model.eval()
    next_token = NextTokenObjective(False, 4096, CPU, plain_head(model))
    objective = DistillationObjective(next_token, 0.7, 1.0)
    ours = [objective.score(model, batch) for batch in objective.batches(examples)]
    plain = [
        next_token.score(model, batch) for batch in next_token.batches([one.example for one in examples])
    ]
    assert sorted(float(one.loss) for one in ours) == pytest.approx(sorted(float(one.loss) for one in plain))


def test_a_process_without_examples_has_a_backward_pass(kit: Kit, make: Make) -> None:
    examples = examples_of(make, kit.folder / "labels")[:1]
    model = load(make().backbone).model.train()
    model.requires_grad_(True)
    objective = DistillationObjective(NextTokenObjective(True, 4096, CPU, plain_head(model)), 0.7, 1.0)
    (idle,) = objective.batches(examples, Share(1, 2))
    score = objective.score(model, idle)
    assert (float(score.loss.detach()), score.targets) == (0.0, 0)
    score.loss.backward()


@pytest.mark.parametrize("method", [Lora(r=4, alpha=8), Full()], ids=["lora", "full"])
def test_the_student_comes_nearer_to_its_teacher(
    kit: Kit, make: Make, method: object, tmp_path: Path
) -> None:
    run = train(make(method, {"kd_ratio": 1.0}, epochs=4.0), tmp_path / "run")
    assert run.record().status == "finished"
    assert run.record().hops[0].max_abs_logprob == 0
    steps = losses_of(run)
    assert np.mean(steps[-4:]) < 0.9 * np.mean(steps[:4])
    data = json.loads(run.data_path.read_text())
    assert (data["labels"]["top"], data["labels"]["teacher"]["adapter"]) == (8, "wide")
    found = evaluate(run)
    assert found["before"]["targets"] > 0


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(make: Make, tmp_path: Path) -> None:
    recipe = make(Lora(r=4, dropout=0.1), save_every=1, max_steps=6)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_three])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    for name in WEIGHTS:
        assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()


def test_rows_of_any_size_give_the_same_losses(make: Make, tmp_path: Path) -> None:
    one, other = (
        losses_of(train(make(max_steps=3, micro_batch_tokens=most), tmp_path / str(most)))
        for most in (16, 1024)
    )
    assert one == pytest.approx(other, rel=1e-4)


def test_the_teachers_share_is_what_makes_the_difference(make: Make, tmp_path: Path) -> None:
    recipe = make(task={"kd_ratio": 1e-9}, max_steps=3)
    plain = recipe.model_copy(update={"task": Chat()})
    ours, theirs = (
        losses_of(train(one, tmp_path / str(number))) for number, one in enumerate((recipe, plain))
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


def refused(kind: type[PtuneError], said: str, recipe: object, out: Path, *, resume: bool = False) -> None:
    with pytest.raises(kind, match=said):
        train(recipe, out, resume=resume)  # type: ignore[arg-type]


def test_what_is_wrong_with_labels_is_said_before_training(kit: Kit, make: Make, tmp_path: Path) -> None:
    refused(
        FormatError,
        "holds no labels of a teacher",
        make(task={"teacher_labels": tmp_path / "none"}),
        tmp_path / "a",
    )
    longer = make(task={"system": "Be brief."})  # other tokens than those that have labels
    refused(DataError, r"no labels of training example 1 of \d+ \('.*run ptune label", longer, tmp_path / "b")
    other = tiny_models.build(tmp_path / "other", "llama", vocab_size=tiny_models.VOCAB + 1)
    grown = copy.deepcopy(tiny_models.tokenizer())
    grown.add_tokens(["<mine>"])
    grown.save_pretrained(other)
    refused(
        RecipeError, "teacher has another tokenizer", make(backbone={"model": str(other)}), tmp_path / "c"
    )
    with pytest.raises(ValueError, match="label_smoothing is not for distillation"):
        Distillation(label_smoothing=0.1)


def test_a_run_goes_on_with_the_labels_that_it_began_with(kit: Kit, make: Make, tmp_path: Path) -> None:
    shutil.copytree(kit.folder / "labels", tmp_path / "labels")
    recipe = make(task={"teacher_labels": tmp_path / "labels"}, save_every=1, max_steps=6)
    train(recipe, tmp_path / "run", callbacks=[pause_after_three])
    shutil.rmtree(tmp_path / "labels")
    label(recipe, kit.teacher.folder, adapter="narrow", top=8)
    refused(DataError, "labels in .* have changed since", recipe, tmp_path / "run", resume=True)
