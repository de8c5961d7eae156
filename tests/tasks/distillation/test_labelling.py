"""Labels are what transformers says of the same tokens; labelling goes on where it was interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_models

import ptune
from ptune.backbone.load import load_codec
from ptune.cli import main
from ptune.codecs.chat import Example
from ptune.data.examples import dataset
from ptune.data.teacher.labels import LabelWriter, TeacherLabels
from ptune.errors import PtuneError, RecipeError, UsageError
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.distillation import labelling
from ptune.tasks.distillation.labelling import label

from .conftest import Kit, Make, recipe_of


def examples(kit: Kit) -> list[Example]:
    recipe = recipe_of(kit)
    codec = codec_for(recipe.chat, load_codec(recipe.backbone))
    made = dataset.load(recipe.data, recipe.chat, codec, recipe.train.seed)
    return [*made.train, *made.validation]


@pytest.mark.parametrize(("adapter", "temperature"), [("base", 1.0), ("wide", 1.0), ("wide", 2.0)])
def test_they_are_what_transformers_computes(
    kit: Kit, adapter: str, temperature: float, tmp_path: Path
) -> None:
    folder = label(
        recipe_of(kit), kit.teacher.folder, tmp_path / "out", adapter=adapter, top=8, temperature=temperature
    )
    labels = TeacherLabels.open(folder)
    rows = examples(kit)
    assert len(labels) == len({one.ids for one in rows})
    for example in rows[:5]:
        logits = torch.from_numpy(kit.teacher.logits(list(example.ids), adapter))
        wanted = [at - 1 for at, target in enumerate(example.targets) if target and at]
        known = (logits[wanted].double() / temperature).log_softmax(1)
        best = known.topk(8, 1)
        found = labels.of(example)
        np.testing.assert_allclose(found.logprobs, best.values, atol=2e-4)
        said = known.gather(1, torch.from_numpy(found.tokens.astype(np.int64)))
        np.testing.assert_allclose(found.logprobs, said, atol=2e-4)
        np.testing.assert_allclose(np.exp(found.tail), 1 - best.values.exp().sum(1), atol=2e-4)


def test_the_whole_vocabulary_has_no_tail(kit: Kit, tmp_path: Path) -> None:
    vocab = len(tiny_models.tokenizer())
    folder = label(recipe_of(kit), kit.teacher.folder, tmp_path / "out", top=vocab)
    found = TeacherLabels.open(folder).of(examples(kit)[0])
    assert found.tokens.shape[1] == vocab
    assert np.isneginf(found.tail).all()
    np.testing.assert_allclose(np.exp(found.logprobs.astype(np.float64)).sum(1), 1, atol=1e-6)


def test_an_interrupted_command_goes_on(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(kit)
    recipe.save(tmp_path / "recipe.yaml")
    monkeypatch.setattr(labelling, "_A_SHARD", 8)
    add, shards = LabelWriter.add, list[int]()

    def interrupted(self: LabelWriter, some: list[Example], labels: list[object]) -> None:
        if shards:
            raise KeyboardInterrupt
        shards.append(len(some))
        add(self, some, labels)  # type: ignore[arg-type]

    words = ["label", str(tmp_path / "recipe.yaml"), "--bundle", str(kit.teacher.folder), "--adapter=wide"]
    words += ["--top", "8", "--out", str(tmp_path / "out"), "--train.lr", "0.01"]
    with monkeypatch.context() as patched:
        patched.setattr(LabelWriter, "add", interrupted)
        assert main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(TeacherLabels.open(tmp_path / "out")) == 8
    assert main(words) == 0
    told = capsys.readouterr().out
    assert (
        f"next: ptune train {tmp_path}/recipe.yaml --train.lr 0.01 --task.teacher-labels {tmp_path}/out"
        in told
    )
    parts, whole = TeacherLabels.open(tmp_path / "out"), TeacherLabels.open(kit.folder / "labels")
    for example in examples(kit):
        one, other = parts.of(example), whole.of(example)
        assert np.array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    before = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert main(words) == 0  # nothing is left
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == before


def test_from_python_with_more_data_only_that_is_computed(kit: Kit, tmp_path: Path) -> None:
    shutil.copytree(kit.folder / "labels", tmp_path / "labels")
    files = [kit.folder / "train.jsonl", kit.folder / "test.jsonl"]
    before = len(TeacherLabels.open(tmp_path / "labels"))
    folder = ptune.label(
        recipe_of(kit),
        kit.teacher.folder,
        tmp_path / "labels",
        adapter="wide",
        top=8,
        data={"files": files, "validation": files[1:]},
    )
    index = json.loads((folder / "labels.json").read_text())
    assert len(index["shards"]) == 2
    assert sum(shard["examples"] for shard in index["shards"]) == len(TeacherLabels.open(folder)) > before


def test_what_cannot_be_a_teacher_is_refused(kit: Kit, make: Make, tmp_path: Path) -> None:
    def refused(kind: type[PtuneError], said: str, recipe: object = None, **options: object) -> None:
        with pytest.raises(kind, match=said):
            label(recipe or make(), kit.teacher.folder, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    refused(UsageError, "--top must be from 1 to the", top=0)
    refused(UsageError, "--top must be from 1 to the", top=10**6)
    refused(UsageError, "--temperature must be", temperature=0.0)
    refused(PtuneError, "nobody", adapter="nobody")
    chat = make().model_copy(update={"task": ptune.Chat()})
    refused(RecipeError, "labels are for the task Distillation, and the recipe's is Chat", chat)
    other = tiny_models.build(tmp_path / "other", "llama", vocab_size=tiny_models.VOCAB + 1)
    grown = tiny_models.tokenizer()
    grown.add_tokens(["<mine>"])
    grown.save_pretrained(other)
    refused(UsageError, "has another tokenizer than", make(backbone={"model": str(other)}))


def test_the_command_wants_a_teacher(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make().save(tmp_path / "recipe.yaml")
    assert main(["label", str(tmp_path / "recipe.yaml")]) == 2
    assert "--bundle FOLDER names the teacher" in capsys.readouterr().err
