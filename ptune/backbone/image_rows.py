"""Rows of features: what a model makes of images, and an embedding that knows them.

Tokens from `ptune.codecs.vision.FIRST_ROW` on are rows of a table. The embedding of a model that was told the table gives them
in place of its own, so that everything behind it (packing, loss, evaluation, proofs) sees images without knowing them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.codecs.chat import ChatCodec
from ptune.codecs.image import Pixels
from ptune.codecs.vision import FIRST_ROW, Vision
from ptune.errors import BackboneError
from ptune.formats import cache
from ptune.formats.whole_write import whole_folder
from ptune.progress import Progress

Rows = NDArray[np.float32]  # [rows of all images, width]

AT_ONCE = 8  # images in a pass of the vision tower
_FILE = "rows.f32"
_PLAIN = "_ptune_plain_forward"
_SHOWN = "_ptune_rows"
CACHED_FROM = 64  # images; fewer are computed in seconds


def see(model: PreTrainedModel, rows: Rows) -> None:
    """Lets the model's embedding give `rows` for tokens from FIRST_ROW on; another table replaces the one before."""
    embedding: Any = model.get_input_embeddings()
    plain = getattr(embedding, _PLAIN, None) or embedding.forward
    setattr(embedding, _PLAIN, plain)

    def forward(ids: Tensor) -> Tensor:
        image = ids >= FIRST_ROW
        embedded: Tensor = plain(ids.masked_fill(image, 0))
        if not image.any():
            return embedded
        wanted = torch.from_numpy(rows[(ids[image] - FIRST_ROW).cpu().numpy()])
        embedded = embedded.clone()
        embedded[image] = wanted.to(embedded)
        return embedded

    embedding.forward = forward
    setattr(embedding, _SHOWN, rows)


def shown(model: PreTrainedModel) -> Rows | None:
    """The table that a model sees; None if it was told none."""
    return getattr(model.get_input_embeddings(), _SHOWN, None)


@torch.no_grad()
def features(model: PreTrainedModel, pixels: Tensor, vision: Vision) -> Tensor:
    """What the model makes of normalised images [images, 3, height, width]: [images, rows, width].

    Raises: BackboneError if it makes another number of rows than its prompts show.
    """
    found: Any = model.get_image_features(pixel_values=pixels[:, None] if vision.tiled else pixels)
    found = getattr(found, "pooler_output", found)
    stacked: Tensor = torch.stack([*found]) if isinstance(found, list | tuple) else found
    stacked = stacked.reshape(len(pixels), -1, stacked.shape[-1])
    if stacked.shape[1] != vision.rows:
        raise BackboneError(
            f"{type(model).__name__} makes {stacked.shape[1]} rows of an image, and its prompts show {vision.rows}"
        )
    return stacked


def show(
    model: PreTrainedModel, images: NDArray[np.uint8] | None, codec: ChatCodec, identity: str
) -> PreTrainedModel:
    """Lets a model see the images of its data, if it sees any. identity: hash of its weights. Returns the model."""
    if codec.vision is not None and images is not None:
        check_seen(model, codec.vision)
        see(model, rows_of(model, images, codec.vision, identity))
    return model


def check_seen(model: PreTrainedModel, vision: Vision) -> None:
    """Compares what the model says of an image that it gets as pixels, and as rows.

    Raises: BackboneError if the two differ: the model does more with an image than put rows in place of embeddings.
    """
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (1, *vision.preprocessing.size, 3), np.uint8)
    normalised = torch.from_numpy(vision.preprocessing.normalised(pixels)).to(model.device, model.dtype)
    around = [one for one in vision.written if one != vision.token] or [0]
    text = torch.tensor([[around[0], *vision.written, around[-1]]], device=model.device)
    image, before = text == vision.token, shown(model)
    rows = torch.arange(FIRST_ROW, FIRST_ROW + vision.rows, device=model.device)
    try:
        with torch.no_grad():
            theirs = model(
                input_ids=text, pixel_values=normalised[:, None] if vision.tiled else normalised
            ).logits
            see(model, features(model, normalised, vision).float().cpu().numpy()[0])
            ours = model(input_ids=text.masked_scatter(image, rows)).logits
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"{type(model).__name__} does not see images as LLaVA does: {reason}") from error
    finally:
        see(model, _none(model) if before is None else before)
    rounding = 1e-3 if model.dtype == torch.float32 else 0.05
    if float((ours - theirs).abs().max()) > rounding * float(theirs.abs().max()):
        raise BackboneError(
            f"{type(model).__name__} does more with an image than put its rows in place of embeddings, which ptune does not"
            " train yet: take a model that sees images as LLaVA does"
        )


def rows_of(model: PreTrainedModel, images: NDArray[np.uint8], vision: Vision, identity: str) -> Rows:
    """The rows of all images [images, height, width, 3], in their order. Many are kept on disk for the next time.

    identity: hash of the model's weights.
    """
    if len(images) < CACHED_FROM:
        return np.concatenate([*_computed(model, images, vision)] or [_none(model)])
    pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    parts = [identity, str(model.dtype), pixels, vision.model_dump(mode="json"), cache.code_hash("backbone")]
    with cache.place_for(cache.key_of(parts), "image_rows") as place:
        if place is None:
            return np.concatenate([*_computed(model, images, vision)])
        if cache.sealed(place) is None:
            with whole_folder(place) as part:
                with (part / _FILE).open("wb") as file:
                    for some in _computed(model, images, vision):
                        file.write(some.tobytes())
                cache.seal(part, {})
        return _mapped(place / _FILE, _none(model).shape[1])


def _computed(model: PreTrainedModel, images: NDArray[np.uint8], vision: Vision) -> Iterator[Rows]:
    with Progress("looking at the images", len(images), unit="images") as progress:
        for start in range(0, len(images), AT_ONCE):
            some: Pixels = images[start : start + AT_ONCE]
            pixels = torch.from_numpy(vision.preprocessing.normalised(some))
            made = features(model, pixels.to(model.device, model.dtype), vision)
            yield made.float().cpu().numpy().reshape(-1, made.shape[-1])
            progress.advance(len(some))


def _none(model: nn.Module) -> Rows:
    """The table of no images."""
    assert isinstance(model, PreTrainedModel)
    return np.zeros((0, model.get_input_embeddings().weight.shape[1]), np.float32)


def _mapped(file: Path, width: int) -> Rows:
    return np.memmap(file, np.float32, "r").reshape(-1, width)
