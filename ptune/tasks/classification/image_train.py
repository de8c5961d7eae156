"""Training side of image classification: pixels, augmentation that depends only on the seed, and cross-entropy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from ptune.codecs.image import Pixels, Preprocessing, resized
from ptune.codecs.labels import Labels
from ptune.data.images.labelled import ImageRef
from ptune.data.shapes.labelled import LabelledRow
from ptune.tasks.classification.image_predictions import pixels_of
from ptune.tasks.encoder.train import Loss
from ptune.training.layers.batch_norm import still
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Share

Augmentation: TypeAlias = Literal["none", "flip", "standard"]

TOKEN_PIXELS = 16 * 16  # an image counts as one token per patch of this size
_LEAST_AREA, _MOST_STRETCH = 0.8, 4 / 3  # limits of a random crop
_TRIES = 10


@dataclass
class PixelStore:
    """Preprocessed images before augmentation; kept in memory up to `most_bytes`, the others are read each time."""

    preprocessing: Preprocessing
    most_bytes: int
    _kept: dict[ImageRef, Pixels] = field(default_factory=dict)
    _bytes: int = 0

    def of(self, row: LabelledRow) -> Pixels:
        """A row's image, [height, width, 3]. Raises: DataError if the file has become unreadable."""
        pixels = self._kept.get(row.input)
        if pixels is None:
            pixels = pixels_of(row, self.preprocessing)
            if self._bytes + pixels.nbytes <= self.most_bytes:
                self._kept[row.input] = pixels
                self._bytes += pixels.nbytes
        return pixels


@dataclass(frozen=True)
class ImageBatch:
    """The images of one forward pass. A process without an image of its own computes one without a target."""

    rows: tuple[LabelledRow, ...]
    seeds: tuple[int, ...]  # of each image's augmentation
    targets: int


@dataclass(frozen=True)
class ImageObjective:
    """Sum of cross-entropies."""

    store: PixelStore
    loss: Loss
    augmentation: Augmentation
    per_pass: int  # images
    device: torch.device
    unit = "images"

    def size(self, example: LabelledRow) -> int:
        """One image."""
        return 1

    def targets(self, example: LabelledRow) -> int:
        """One label."""
        return 1

    def batches(self, examples: Sequence[LabelledRow], share: Share = ALONE) -> Iterator[ImageBatch]:
        """Batches of nearly equal size. An image's augmentation depends on its place in the step, not on the process."""
        seed = _seed_of_all(self.device, share)
        count = -(-len(examples) // self.per_pass)
        count = -(-count // share.processes) * share.processes
        for part in range(share.process, count, share.processes):
            places = range(part, len(examples), count)
            rows = tuple(examples[place] for place in places)
            seeds = tuple(random.Random(f"{seed}/{place}").getrandbits(63) for place in places)  # noqa: S311
            yield ImageBatch(rows or (examples[0],), seeds or (0,), len(rows))

    def score(self, model: nn.Module, batch: ImageBatch) -> Score:
        """Loss and correct predictions, summed over the batch."""
        if model.training:
            still(model)
        logits = self.logits(model, batch, augmented=model.training)[: batch.targets]
        labels = torch.tensor(
            [row.label for row in batch.rows[: batch.targets]], dtype=torch.long, device=self.device
        )
        loss = self.loss(logits, labels)
        right = loss.new_zeros(()) if model.training else self.loss.correct(logits, labels)
        return Score(loss, right, batch.targets)

    def constant_loss(self, examples: Sequence[LabelledRow]) -> float | None:
        """See `Loss.constant`."""
        return self.loss.constant(row.label for row in examples)

    def logits(self, model: nn.Module, batch: ImageBatch, *, augmented: bool = False) -> torch.Tensor:
        """[images, labels], in float32 at least."""
        images = [self.store.of(row) for row in batch.rows]
        if augmented and self.augmentation != "none":
            filtered = self.store.preprocessing.interpolation
            images = [
                augment(image, random.Random(seed), self.augmentation, filtered)  # noqa: S311
                for image, seed in zip(images, batch.seeds, strict=True)
            ]
        dtype = next(model.parameters()).dtype  # of the body, which comes first
        pixels = torch.from_numpy(self.store.preprocessing.normalised(np.stack(images)))
        logits: torch.Tensor = model(pixel_values=pixels.to(self.device, dtype)).logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _seed_of_all(device: torch.device, share: Share) -> int:
    """A number from torch's generator, seeded by the loop for this step: the first process's, in all processes."""
    drawn = torch.randint(2**62, (1,))
    if share.processes > 1:
        drawn = drawn.to(device)
        torch.distributed.broadcast(drawn, 0)
    return int(drawn)


def augment(image: Pixels, chance: random.Random, kind: Augmentation, interpolation: str) -> Pixels:
    """Augments an image. flip: horizontally, with probability 1/2; standard: also a random crop."""
    if kind == "standard":
        image = resized(image, _part(image.shape[1], image.shape[0], chance), interpolation)
    return image[:, ::-1] if chance.random() < 0.5 else image


def _part(width: int, height: int, chance: random.Random) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) of at least `_LEAST_AREA` of the image (Szegedy et al. 2014, milder)."""
    for _ in range(_TRIES):
        area = chance.uniform(_LEAST_AREA, 1.0) * width * height
        stretch = math.exp(chance.uniform(-1, 1) * math.log(_MOST_STRETCH))
        wide, high = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
        if 0 < wide <= width and 0 < high <= height:
            left, top = chance.randint(0, width - wide), chance.randint(0, height - high)
            return left, top, left + wide, top + high
    return 0, 0, width, height


def images_per_pass(preprocessing: Preprocessing, tokens: int) -> int:
    """Number of images in a forward pass of at most `tokens` tokens; 16 x 16 pixels count as one token."""
    height, width = preprocessing.size
    return max(1, tokens // max(1, height * width // TOKEN_PIXELS))


def balanced(rows: Sequence[LabelledRow], labels: Labels) -> torch.Tensor:
    """Weights [labels] that make every class count equally; their mean over the images is 1."""
    counts = torch.bincount(torch.tensor([row.label for row in rows]), minlength=len(labels))
    return len(rows) / ((counts > 0).sum() * counts.clamp(min=1).float())
