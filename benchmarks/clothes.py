"""ResNets that tell clothes apart, trained here from nothing: what int8 may change shows only on a model that classifies.

Fashion-MNIST (MIT licence) is read from a folder of its four idx files, as Debian's `dataset-fashion-mnist` installs
them in /usr/share/datasets/fashion-mnist. Its images of 28 x 28 pixels are trained on at 32 x 32. A trained model and
everything made of it are kept in a folder and found again.
"""

from __future__ import annotations

import gzip
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SIDE, EPOCHS, BATCH, LR = 32, 3.0, 128, 0.1
MEAN, STD = 0.2860, 0.3530  # of the training images' pixels
ADAPTED, STEPS = 4096, 20  # images and steps of the adapter that is merged
_DEPTHS = {
    "resnet18": ([2, 2, 2, 2], "basic", [64, 128, 256, 512]),
    "resnet50": ([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
}


def config(name: str) -> Any:
    """Of ResNet-18 or ResNet-50, with a head for the ten kinds of clothes."""
    import transformers

    depths, kind, widths = _DEPTHS[name]
    labels = dict(enumerate(LABELS))
    return transformers.ResNetConfig(depths=depths, layer_type=kind, hidden_sizes=widths, id2label=labels)


def read(folder: Path, split: Literal["train", "t10k"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [n, 28, 28] and labels [n] of one split."""
    images, labels = (
        gzip.decompress((folder / f"{split}-{kind}-ubyte.gz").read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8)


def inputs(images: NDArray[np.uint8], side: int) -> Any:
    """Images [n, 28, 28] as a model takes them, float32 [n, 3, side, side], a torch tensor."""
    import torch

    pixels = (torch.from_numpy(images.copy()).float()[:, None] / 255 - MEAN) / STD
    scaled = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear")
    return scaled.expand(-1, 3, -1, -1).contiguous()


def trained(name: str, folder: Path, work: Path, epochs: float = EPOCHS) -> Path:
    """A model folder in `work`, trained unless it is there already: minutes on a quiet machine."""
    import torch
    import transformers

    place = work / f"{name}_{SIDE}px_{epochs:g}"
    if (place / "preprocessor_config.json").is_file():
        return place
    images, labels = read(folder, "train")
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config(name)).train()
    _begin(model)
    model = model.to(memory_format=torch.channels_last)
    steps = int(epochs * len(images) / BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.2)
    order = np.concatenate(
        [np.random.default_rng(at).permutation(len(images)) for at in range(int(epochs) + 1)]
    )
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        pixels, wanted = inputs(images[rows], SIDE), torch.from_numpy(labels[rows].astype(np.int64))
        if step % 2:
            pixels = pixels.flip(-1)
        loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{name}: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.eval().save_pretrained(place)
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_pct=1.0, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )
    processor.save_pretrained(place)
    return place


def _begin(model: Any) -> None:
    """Blocks begin as their shortcuts and the head with nothing, as is usual (Goyal et al. 2017, section 5.1).

    A head that begins at random keeps directions that say nothing of any label, and all rounding with them.
    """
    import torch

    for module in model.modules():
        if hasattr(module, "shortcut"):
            torch.nn.init.zeros_(module.layer[-1].normalization.weight)
    for parameter in model.classifier.parameters():
        torch.nn.init.zeros_(parameter)


def exported(name: str, folder: Path, work: Path, threads: int) -> Path:
    """A bundle in `work`, as a user makes it who wants one model fast: LoRA on the trained model, merged, in both profiles.

    What was merged lies beside it, in `merged_model`.
    """
    from ptune import publish
    from ptune.config.classification import ImageClassification
    from ptune.config.recipe import Backbone, Data, Recipe, Train
    from ptune.fine_tune import train
    from ptune.methods.lora import Lora

    model = trained(name, folder, work)
    bundle, arrays = work / f"{model.name}_bundle", _arrays(folder, work)
    if bundle.is_dir():
        return bundle
    recipe = Recipe(
        name=name,
        task=ImageClassification(labels=LABELS, augmentation="none"),  # the head's own order: it is kept
        backbone=Backbone(model=str(model)),
        method=Lora(r=8, alpha=16),
        data=Data(files=(Path(f"{arrays}:train"),), test=(Path(f"{arrays}:test"),)),
        train=Train(max_steps=STEPS, lr=1e-3, batch_size=32),
    )
    run = _run_of(bundle)
    shutil.rmtree(run, ignore_errors=True)  # of a call that was interrupted
    publish.export_run(
        train(recipe, run), bundle, name=name, merge=True, threads=threads, profiles=("fp32", "int8")
    )
    return bundle


def merged_model(bundle: Path) -> Path:
    """The model folder that a bundle was made of."""
    return _run_of(bundle) / "merged"


def _run_of(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}_run")


def _arrays(folder: Path, work: Path) -> Path:
    """Some of the training images and all of the test images, as ptune reads them."""
    path = work / "clothes.npz"
    if not path.is_file():
        images, labels = read(folder, "train")
        every = len(images) // ADAPTED
        test, right = read(folder, "t10k")
        np.savez_compressed(
            path, x_train=images[::every][:ADAPTED], y_train=labels[::every][:ADAPTED], x_test=test, y_test=right,
            names=np.array(LABELS),
        )  # fmt: skip
    return path


def agreement(bundle: Path, folder: Path, threads: int) -> dict[str, float | int]:
    """How many of the 10,000 test images get the same label in fp32 and in int8, and how many the right one."""
    from PIL import Image

    import ptune

    images, right = read(folder, "t10k")
    given = [Image.fromarray(image).convert("RGB") for image in images]
    labels, chances = {}, {}
    for profile in ("fp32", "int8"):
        with closing(ptune.load(bundle, profile=profile, threads=threads)) as model:
            (name,) = model.adapters
            order = list(model.adapters[name].labels)
            said = model.classify(given, name)
        labels[profile] = np.array([LABELS.index(one.label) for one in said])
        chances[profile] = np.array([[one.scores[label] for label in order] for one in said])
    return {
        "share": float((labels["fp32"] == labels["int8"]).mean()),
        "images": len(given),
        "mean_abs_dp": float(np.abs(chances["fp32"] - chances["int8"]).mean()),
        **{f"{profile}_accuracy": float((labels[profile] == right).mean()) for profile in labels},
    }
