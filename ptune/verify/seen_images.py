"""The images of a decoder's probes: kept in the bundle as pixels, so that both sides of a proof can look at them anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ptune.backbone.image_rows import features, see
from ptune.codecs.chat import ChatCodec
from ptune.codecs.vision import FIRST_ROW, ROW, Vision
from ptune.engine.decoder.images import Picture, Tower
from ptune.errors import FormatError
from ptune.formats.bundle import Bundle, Hop
from ptune.parity import Array
from ptune.verify.limits import IMAGES
from ptune.verify.torch_side import Probe

FILE = "golden/images.npy"
DRAWN = 4  # images of our own, for a model that is exported without data about images
LEAST_TEXTS = 4  # probes without images
QUESTIONS = ("What is to be seen?", "Describe the colours.", "Is it dark?", "Name two things in it.")

Images = NDArray[np.uint8]  # [images, height, width, 3]


@dataclass(frozen=True)
class Seen:
    """What one side has made of the images: [images, rows, width]."""

    rows: Array

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The same for an engine, under the numbers that the probes have."""
        return (Picture(FIRST_ROW, self.rows.reshape(-1, self.rows.shape[-1])),)

    @property
    def by_token(self) -> dict[int, Array]:
        """The same for a graph: token -> its row [width]."""
        return dict(enumerate(self.rows.reshape(-1, self.rows.shape[-1]), FIRST_ROW))


def vision_of(bundle: Bundle) -> Vision | None:
    """How a bundle's prompts show images; None if its model sees none."""
    return ChatCodec.open(bundle.codec_path).vision if bundle.vision_path is not None else None


def sees(ids: Sequence[int]) -> bool:
    """Whether tokens hold rows of images."""
    return max(ids) >= FIRST_ROW


def words(ids: Sequence[int]) -> tuple[int, ...]:
    """The tokens without those of images."""
    return tuple(token for token in ids if token < FIRST_ROW)


def numbered(
    probes: Sequence[Probe], texts: Sequence[Probe], images: Images | None, codec: ChatCodec
) -> tuple[list[Probe], Images]:
    """The probes with the images that they show numbered from 0 on, and those images. There are some about images of our own
    where they show none, and some of `texts` where all do."""
    vision = codec.vision
    assert vision is not None
    used = sorted(
        {(token - FIRST_ROW) // vision.rows for one in probes for token in one.ids if token >= FIRST_ROW}
    )
    probes = [replace(one, ids=_renumbered(one.ids, used, vision)) for one in probes]
    if not used:
        drawn = _drawn(vision)
        return [*probes[: len(probes) - len(drawn)], *_about(len(drawn), codec)], drawn
    if sum(not sees(one.ids) for one in probes) < LEAST_TEXTS:
        probes = [*probes[: len(probes) - LEAST_TEXTS], *texts[:LEAST_TEXTS]]
    assert images is not None
    return probes, np.ascontiguousarray(images[used])


def _renumbered(ids: Sequence[int], used: Sequence[int], vision: Vision) -> tuple[int, ...]:
    place = {image: at for at, image in enumerate(used)}

    def renumbered(token: int) -> int:
        if token < FIRST_ROW:
            return token
        image, row = divmod(token - FIRST_ROW, vision.rows)
        return FIRST_ROW + place[image] * vision.rows + row

    return tuple(map(renumbered, ids))


def _drawn(vision: Vision) -> Images:
    """Smooth pictures with some noise."""
    height, width = vision.preprocessing.size
    random = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [
        np.stack(
            [np.sin(6 * across * (at + one) + one) + np.cos(5 * down * (at + 1)) for one in range(3)], -1
        )
        for at in range(DRAWN)
    ]
    noisy = 127 + 50 * np.stack(waves) + random.normal(0, 12, (DRAWN, height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _about(count: int, codec: ChatCodec) -> list[Probe]:
    assert codec.vision is not None
    probes = []
    for at in range(count):
        image = {"type": "image", ROW: FIRST_ROW + at * codec.vision.rows}
        asked = {"type": "text", "text": QUESTIONS[at % len(QUESTIONS)]}
        ids = codec.encode_prompt([{"role": "user", "content": [image, asked]}])
        probes.append(Probe(tuple(ids), tuple(range(len(ids)))[-8:], len(ids)))
    return probes


def save(images: Images, bundle: Path) -> None:
    """Writes the images into a bundle."""
    (bundle / FILE).parent.mkdir(exist_ok=True)
    np.save(bundle / FILE, images, allow_pickle=False)


def load(bundle: Path) -> Images:
    """Reads a bundle's images. Raises: FormatError."""
    try:
        images: Images = np.load(bundle / FILE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FormatError(f"{bundle / FILE} is damaged or gone: {error}") from None
    return images


def by_torch(model: PreTrainedModel, images: Images, vision: Vision) -> Seen:
    """What the model makes of images; from now on its embedding gives that for their tokens."""
    pixels = torch.from_numpy(vision.preprocessing.normalised(images))
    rows = torch.cat([features(model, one[None], vision) for one in pixels]).float().numpy()
    see(model, rows.reshape(-1, rows.shape[-1]))
    return Seen(rows)


def by_graph(bundle: Bundle, images: Images, vision: Vision, threads: int) -> Seen:
    """What a bundle's vision graph makes of images, as an engine runs it."""
    tower = Tower.of(bundle, threads)
    assert tower is not None
    return Seen(np.stack([tower.see(one).rows for one in vision.preprocessing.normalised(images)]))


def hop(there: Seen, here: Seen) -> Hop:
    """Compares what torch and the graph have made of the images."""
    error = float(np.linalg.norm(here.rows - there.rows) / max(float(np.linalg.norm(there.rows)), 1e-30))
    return Hop(
        name="torch → ONNX, features of images",
        prompts=len(there.rows),
        positions=int(np.prod(there.rows.shape[:2])),
        liveness=error,
        limit=f"relative L2 ≤ {IMAGES:g}",
        passed=bool(error <= IMAGES),
    )
