"""The images of a decoder's probes: kept in the bundle as pixels, so that both sides of a proof can look at them anywhere."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import PreTrainedModel

from ptune.backbone.image_rows import Table, rows_of, see
from ptune.codecs.album import Album
from ptune.codecs.chat import ChatCodec
from ptune.codecs.tiles import Grid
from ptune.codecs.vision import FIRST_ROW, Vision, part_of
from ptune.engine.decoder.inputs.images import Picture, Tower
from ptune.errors import FormatError
from ptune.formats.bundle import Bundle, Hop
from ptune.parity import Array
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.limits import IMAGES

FILE = "golden/images.npz"
DRAWN = ((1.0, 1.0), (1.7, 0.8), (0.6, 1.5), (2.6, 2.2))  # images of our own, in widths and heights of a tile
WHOLE = 5  # times as large of a model whose tower looks at all tiles at once
LEAST_TEXTS = 4  # probes without images
QUESTIONS = ("What is to be seen?", "Describe the colours.", "Is it dark?", "Name two things in it.")


@dataclass(frozen=True)
class Seen:
    """What one side has made of the images, under the numbers that the probes have."""

    pictures: tuple[Picture, ...]

    @classmethod
    def of(cls, images: Album, rows: Array) -> Seen:
        """rows: of all images, [rows, width]."""
        starts = [start - FIRST_ROW for start in images.starts]
        return cls(
            tuple(
                Picture(begin + FIRST_ROW, rows[begin:end], images.layout(at).places)
                for at, (begin, end) in enumerate(pairwise(starts))
            )
        )

    @property
    def rows(self) -> Array:
        """The rows of all images, [rows, width]."""
        return np.concatenate([picture.rows for picture in self.pictures])

    @property
    def by_token(self) -> dict[int, Array]:
        """The same for a graph: token -> its row [width]."""
        return dict(enumerate(self.rows, FIRST_ROW))

    @property
    def grids(self) -> dict[int, Grid]:
        """The first row's token of each picture whose rows have positions by their place -> its rows down and across."""
        return {one.first: one.places for one in self.pictures if one.places is not None}


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
    probes: Sequence[Probe], texts: Sequence[Probe], images: Album | None, codec: ChatCodec
) -> tuple[list[Probe], Album]:
    """The probes with the images that they show numbered from 0 on, and those images. There are some about images of our own
    where they show none, and some of `texts` where all do."""
    vision = codec.vision
    assert vision is not None
    if images is None or not any(sees(one.ids) for one in probes):
        drawn = Album.of(vision, _drawn(vision))
        return [*probes[: len(probes) - len(drawn)], *_about(drawn, codec)], drawn
    used = sorted({images.holding(token) for one in probes for token in one.ids if token >= FIRST_ROW})
    kept = images.only(used)
    moved = {image: start - images.starts[image] for image, start in zip(used, kept.starts, strict=False)}
    probes = [
        replace(one, ids=tuple(token + moved.get(images.holding(token), 0) for token in one.ids))
        for one in probes
    ]
    if sum(not sees(one.ids) for one in probes) < LEAST_TEXTS:
        probes = [*probes[: len(probes) - LEAST_TEXTS], *texts[:LEAST_TEXTS]]
    return probes, kept


def _drawn(vision: Vision) -> list[Image.Image]:
    """Smooth pictures with some noise, of several shapes."""
    edge, random = max(vision.preprocessing.size), np.random.default_rng(0)
    edge *= WHOLE if vision.axes > 1 else 1
    pictures = []
    for at, (wide, high) in enumerate(DRAWN):
        width, height = round(wide * edge), round(high * edge)
        down, across = np.mgrid[0:height, 0:width] / max(height, width)
        waves = [np.sin(6 * across * (at + one) + one) + np.cos(5 * down * (at + 1)) for one in range(3)]
        noisy = 127 + 50 * np.stack(waves, -1) + random.normal(0, 12, (height, width, 3))
        pictures.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return pictures


def _about(images: Album, codec: ChatCodec) -> list[Probe]:
    probes = []
    for at in range(len(images)):
        asked = {"type": "text", "text": QUESTIONS[at % len(QUESTIONS)]}
        ids = codec.encode_prompt([{"role": "user", "content": [part_of(images.placed(at)), asked]}])
        probes.append(Probe(tuple(ids), tuple(range(len(ids)))[-8:], len(ids)))
    return probes


def save(images: Album, bundle: Path) -> None:
    """Writes the images into a bundle."""
    (bundle / FILE).parent.mkdir(exist_ok=True)
    np.savez(bundle / FILE, sizes=images.sizes, tiles=images.tiles)


def load(bundle: Path, vision: Vision) -> Album:
    """Reads a bundle's images. Raises: FormatError."""
    try:
        with np.load(bundle / FILE, allow_pickle=False) as file:
            return Album(vision, file["sizes"], file["tiles"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{bundle / FILE} is damaged or gone: {error}") from None


def by_torch(model: PreTrainedModel, images: Album) -> Seen:
    """What the model makes of images; from now on its embedding gives that for their tokens."""
    rows = rows_of(model, images, "")
    see(model, Table(rows, images.grids))
    return Seen.of(images, rows)


def by_graph(bundle: Bundle, images: Album, threads: int) -> Seen:
    """What a bundle's vision graph makes of images, as an engine runs it."""
    tower = Tower.of(bundle, threads)
    assert tower is not None
    normalised = images.vision.preprocessing.normalised
    rows = [tower.see(normalised(tiles), layout).rows for layout, tiles in images]
    return Seen.of(images, np.concatenate(rows))


def hop(there: Seen, here: Seen) -> Hop:
    """Compares what torch and the graph have made of the images."""
    error = float(np.linalg.norm(here.rows - there.rows) / max(float(np.linalg.norm(there.rows)), 1e-30))
    return Hop(
        name="torch → ONNX, features of images",
        prompts=len(there.pictures),
        positions=len(there.rows),
        liveness=error,
        limit=f"relative L2 ≤ {IMAGES:g}",
        passed=bool(error <= IMAGES),
    )
