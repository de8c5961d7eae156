"""Image classification from files to a run: what is saved loads elsewhere, and a run that was stopped goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sklearn.utils.class_weight import compute_class_weight
from support import tiny_images
from torch import nn

from ptune.backbone.image_model import load_image_model
from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.data.images.labelled import read_images
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import BackboneError, RecipeError
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.classification.image_predictions import image_predictor, preprocessing_of
from ptune.tasks.classification.image_train import ImageObjective, PixelStore, augment, balanced
from ptune.tasks.encoder.train import Loss
from ptune.training import loop
from ptune.training.average import Average
from ptune.training.checkpoint import Checkpoints, trained
from ptune.training.layers.batch_norm import learnt_moments
from ptune.training.rows.packing import ALONE, Share

FAMILIES = (*tiny_images.FAMILIES, "timm")
NAMES = Labels(tiny_images.LABELS, "single")
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder a family, and images/ with 8 images of each label."""
    folder = tmp_path_factory.mktemp("kit")
    for family in FAMILIES:
        tiny_images.build(folder / family, family)
    tiny_images.labelled_folder(folder / "images")
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    def recipe(
        family: str = "resnet", method: Any = None, task: dict[str, Any] | None = None, **train: Any
    ) -> Recipe:
        return Recipe(
            name="tiny",
            task=ImageClassification(**(task or {})),
            backbone=Backbone(model=str(kit / family)),
            method=method or Lora(r=2, alpha=8),
            data=Data(files=(kit / "images",), validation_share=0.25),
            train=Train(**{"max_steps": 4, "lr": 5e-3, "batch_size": 6, "validate_every": 2, **train}),
        )

    return recipe


def rows_of(kit: Path) -> list[LabelledRow]:
    return read_images([kit / "images"], ImageClassification(), NAMES)


def logits(run: Run, kit: Path) -> np.ndarray:
    return np.stack(image_predictor(run, "cpu")(rows_of(kit)[::5], lambda _: None))


def inputs(run: Run, kit: Path) -> torch.Tensor:
    return torch.from_numpy(np.stack([preprocessing_of(run)(row.input.open()) for row in rows_of(kit)[::5]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_plain_pefts(family: str, make: Make, kit: Path, tmp_path: Path) -> None:
    run = train(make(family), tmp_path / "run")
    record, facts = run.record(), read_json(run.adapter_path / "ptune.json")
    assert (record.status, record.hops[0].max_abs_logprob) == ("finished", 0)
    assert (facts["task"], facts["problem"], facts["labels"]) == (
        "image-classification", "single", list(tiny_images.LABELS),
    )  # fmt: skip
    assert facts["base"] == record.base.hash
    pixels = inputs(run, kit)
    base = transformers.AutoModelForImageClassification.from_pretrained(
        kit / family, num_labels=3, id2label=dict(enumerate(tiny_images.LABELS)), ignore_mismatched_sizes=True
    )
    plain = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()
    with torch.no_grad():
        expected = plain(pixel_values=pixels).logits.numpy()
        with plain.disable_adapter():
            before = plain(pixel_values=pixels).logits.numpy()
    assert np.abs(logits(run, kit) - expected).max() < 1e-5
    assert np.abs(expected - before).max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [FreezeExceptLast(layers=1), Full()])
def test_a_whole_model_is_plain_transformers(
    family: str, method: Any, make: Make, kit: Path, tmp_path: Path
) -> None:
    run = train(make(family, method, {"batch_norm": "trained"}), tmp_path / "run")
    assert run.record().hops[0].max_abs_logprob == 0
    pipeline = transformers.pipeline("image-classification", str(run.model_path), device="cpu")
    assert tuple(pipeline.model.config.id2label.values()) == tiny_images.LABELS
    with torch.no_grad():
        expected = pipeline.model(pixel_values=inputs(run, kit)).logits.numpy()
    assert np.abs(logits(run, kit) - expected).max() < 1e-5
    image = tiny_images.picture(60, 44)
    scores = {one["label"]: one["score"] for one in pipeline(image)}
    ours = torch.from_numpy(preprocessing_of(run)(image))[None]
    with torch.no_grad():
        found = pipeline.model(pixel_values=ours).logits.softmax(-1)[0].tolist()
    assert np.abs(np.array([scores[name] for name in tiny_images.LABELS]) - found).max() < 2e-2


def test_a_pretrained_head_is_kept_where_the_labels_are_the_same(kit: Path) -> None:
    plain = transformers.AutoModelForImageClassification.from_pretrained(kit / "resnet")
    for labels, same in ((("x", "y", "z"), True), (("x", "z", "y"), False)):
        found = load_image_model(Backbone(model=str(kit / "resnet")), labels)
        assert found.head == ("classifier.1",)
        assert torch.equal(found.model.classifier[1].weight, plain.classifier[1].weight) == same


def test_a_pretrained_head_is_read_by_the_numbers_of_its_labels(kit: Path, tmp_path: Path) -> None:
    """Published configs list label 10 before label 2."""
    labels = tuple("abcdefghijkl")
    plain = transformers.AutoModelForImageClassification.from_pretrained(
        kit / "resnet", num_labels=12, ignore_mismatched_sizes=True
    )
    folder = shutil.copytree(kit / "resnet", tmp_path / "resnet")
    plain.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    numbers = sorted(map(str, range(12)))
    config["id2label"] = {number: labels[int(number)] for number in numbers}
    config["label2id"] = {label: at for at, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = plain.classifier[1].weight
    for wanted in (labels, labels[::-1], tuple(labels[int(number)] for number in numbers)):
        found = load_image_model(Backbone(model=str(folder)), wanted)
        expected = weights[[labels.index(label) for label in wanted]]
        assert torch.equal(found.model.classifier[1].weight, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bodys_identity_is_the_same_under_any_head(family: str, kit: Path) -> None:
    hashes = {
        load_image_model(Backbone(model=str(kit / family)), labels, seed=seed).identity.hash
        for labels, seed in ((("x", "y", "z"), 0), (("a", "b"), 0), (("a", "b"), 1))
    }
    assert len(hashes) == 1


def test_a_fresh_head_depends_on_the_seed_alone(kit: Path) -> None:
    spec = Backbone(model=str(kit / "timm"))
    one, same, other = (
        load_image_model(spec, ("a", "b"), seed=seed).model.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "timm_model.classifier.weight"
    }


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "task"),
    [(Lora(r=2, dropout=0.1), {}), (Full(), {"batch_norm": "trained"}), (FreezeExceptLast(layers=1), {})],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    method: Any, task: dict[str, Any], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("resnet", method, task)
    whole = train(recipe, tmp_path / "whole")
    step = loop.optimizer_step

    def killed(job: Any, batch: Any, number: int, steps: int) -> float:
        if number == 3:
            raise Killed
        return step(job, batch, number, steps)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "cut")
    cut = train(recipe, tmp_path / "cut", resume=True)
    folder = "adapter" if isinstance(method, Lora) else "model"
    files = list((whole.folder / folder).glob("*.safetensors"))
    assert files
    for file in files:
        assert file.read_bytes() == (cut.folder / folder / file.name).read_bytes()


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running_" in name}


def test_statistics_stay_unless_they_are_to_be_learnt(make: Make, kit: Path, tmp_path: Path) -> None:
    before = transformers.AutoModelForImageClassification.from_pretrained(kit / "resnet").state_dict()
    changed = {}
    for name, method, task in (
        ("frozen", Full(), {}),
        ("trained", Full(), {"batch_norm": "trained"}),
        ("last", FreezeExceptLast(layers=1), {"batch_norm": "trained"}),
    ):
        run = train(make("resnet", method, task), tmp_path / name)
        after = transformers.AutoModelForImageClassification.from_pretrained(run.model_path).state_dict()
        changed[name] = {
            key for key in after if "running_" in key and not torch.equal(before[key], after[key])
        }
    everything = {key for key in before if "running_" in key}
    assert changed["frozen"] == set()
    assert changed["trained"] == everything
    assert changed["last"] == {key for key in everything if ".stages.1." in key}


def test_a_checkpoint_holds_learnt_statistics(make: Make, tmp_path: Path) -> None:
    run = train(make("resnet", FreezeExceptLast(layers=1), {"batch_norm": "trained"}), tmp_path / "run")
    step = Checkpoints(run.checkpoints_path, 1).newest()
    held = load_file(run.checkpoints_path / f"step-{step}" / "weights.safetensors")
    assert {name for name in held if "running_" in name} == {
        name for name in statistics(load_image_model(Backbone(model=str(run.model_path)), tiny_images.LABELS).model)
        if ".stages.1." in name
    }  # fmt: skip


def test_the_average_of_weights_has_the_average_of_their_statistics(make: Make, tmp_path: Path) -> None:
    recipe = make("resnet", Full(), {"batch_norm": "trained"}, ema=0.9, validate_every=4)
    run = train(recipe, tmp_path / "run")
    last = run.checkpoints_path / "step-4"
    average, own = load_file(last / "average.safetensors"), load_file(last / "weights.safetensors")
    saved = load_file(run.model_path / "model.safetensors")
    moments = [name for name in saved if name.endswith((".running_mean", ".running_var"))]
    for name in moments:
        assert torch.equal(saved[name], average[name]), name
        assert not torch.equal(own[name], average[name]), name
    assert moments


def test_an_average_without_statistics_is_read_with_those_of_the_weights(make: Make, tmp_path: Path) -> None:
    run = train(make("resnet", Full(), {"batch_norm": "trained"}, ema=0.9), tmp_path / "run")
    model = load_image_model(Backbone(model=str(run.model_path)), tiny_images.LABELS).model
    model.requires_grad_(True)
    step = run.checkpoints_path / "step-4"
    average = load_file(step / "average.safetensors")
    save_file(
        {name: one for name, one in average.items() if "running_" not in name}, step / "average.safetensors"
    )
    held = Average([*trained(model), *learnt_moments(model)], 0.9)
    Checkpoints(run.checkpoints_path, 1, average=held).load_weights(4, model)
    own = load_file(step / "weights.safetensors")
    assert all(torch.equal(held.tensors[name], own[name]) for name, _ in learnt_moments(model))
    assert all(torch.equal(held.tensors[name], average[name]) for name, _ in trained(model))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"task": {"batch_norm": "trained"}}, "needs method FreezeExceptLast or Full"),
        ({"method": FreezeExceptLast(layers=3)}, "method.layers is 3, but the model has 2 blocks"),
        ({"method": Lora(target_modules=("pooler",))}, "'pooler' names no linear layer or plain convolution"),
        (
            {"family": "vit", "task": {"size": 64}},
            "does not take images of 64 x 64 pixels.*leave task.size out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    recipe: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(make(**recipe), tmp_path / "run")


def test_another_size_of_images(make: Make, tmp_path: Path) -> None:
    run = train(make("timm", Full(), {"size": 48}), tmp_path / "run")
    assert preprocessing_of(run).size == (48, 48)
    processor = transformers.AutoImageProcessor.from_pretrained(run.model_path)
    image = tiny_images.picture(70, 50)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    assert np.abs(preprocessing_of(run)(image) - theirs).max() < 1e-5


def objective(kit: Path, per_pass: int, **changes: Any) -> tuple[ImageObjective, Any, list[Any]]:
    found = load_image_model(Backbone(model=str(kit / "resnet")), tiny_images.LABELS)
    store = PixelStore(found.preprocessing, changes.pop("most_bytes", 10**8))
    made = ImageObjective(
        store, Loss(NAMES), changes.pop("augmentation", "standard"), per_pass, torch.device("cpu")
    )
    return made, found.model, rows_of(kit)


def test_the_loss_of_a_step_is_the_same_however_it_is_cut_up(kit: Path) -> None:
    def loss(per_pass: int, share: Share = ALONE, most_bytes: int = 10**8) -> float:
        made, model, rows = objective(kit, per_pass, most_bytes=most_bytes)
        for layer in model.modules():
            layer.training = not isinstance(layer, nn.BatchNorm2d)
        torch.manual_seed(5)
        return sum(float(made.score(model, batch).loss) for batch in made.batches(rows[:7], share))

    whole = loss(100)
    assert loss(2) == pytest.approx(whole, rel=1e-5)
    assert loss(3, most_bytes=0) == pytest.approx(whole, rel=1e-5)


def test_processes_share_a_step_without_a_rest(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_: None)
    made, _, rows = objective(kit, 2)
    for count in (1, 2, 5, 7):
        shares = []
        for process in range(3):
            torch.manual_seed(1)
            shares.append(list(made.batches(rows[:count], Share(process, 3))))
        assert len({len(share) for share in shares}) == 1
        real = [row.place for share in shares for batch in share for row in batch.rows[: batch.targets]]
        assert sorted(real) == sorted(row.place for row in rows[:count])
        assert sum(batch.targets for share in shares for batch in share) == count


def test_augmentation_keeps_most_of_an_image_and_is_off_in_eval_mode(kit: Path) -> None:
    image = np.asarray(tiny_images.picture(32, 32))
    flipped = [augment(image, random.Random(seed), "flip", "bilinear") for seed in range(20)]
    assert any(np.array_equal(one, image) for one in flipped)
    assert any(np.array_equal(one, image[:, ::-1]) for one in flipped)
    cut = augment(image, random.Random(1), "standard", "bilinear")
    assert cut.shape == image.shape
    assert not np.array_equal(cut, image)
    made, model, rows = objective(kit, 8)
    model.eval()
    scores = [[float(made.score(model, batch).loss) for batch in made.batches(rows)] for _ in range(2)]
    assert scores[0] == scores[1]


def test_rare_labels_count_as_much_as_others() -> None:
    rows = [LabelledRow(None, label, "") for label in [0] * 6 + [1] * 3 + [2]]
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=[row.label for row in rows])
    assert balanced(rows, NAMES).tolist() == pytest.approx(theirs.tolist())


def test_an_adapter_is_not_put_on_another_base(make: Make, kit: Path, tmp_path: Path) -> None:
    recipe, base = make("vit"), shutil.copytree(kit / "vit", tmp_path / "base")
    run = train(recipe.model_copy(update={"backbone": Backbone(model=str(base))}), tmp_path / "run")
    image_predictor(run, "cpu")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if "layer.1" in name)
    save_file({**tensors, name: tensors[name] + 1e-3}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BackboneError, match=rf"base is not the base that {run.folder} was trained on: its weights hash"
    ):
        image_predictor(run, "cpu")
