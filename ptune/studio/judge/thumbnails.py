"""Small pictures of the images that were evaluated, each only if it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ptune.data.images.arrays import Arrays, open_arrays
from ptune.data.images.labelled import ImageRef
from ptune.errors import PtuneError
from ptune.evaluation.classification.gallery import thumbnail


def thumbnails(lines: Sequence[Mapping[str, Any]], told: Sequence[str], home: Path) -> str:
    """Lines of predictions.jsonl as pictures, with what is told below each. home: the folder from which data is named."""
    arrays: dict[str, Arrays] = {}
    figures = "".join(
        f"<figure>{_picture(line, arrays, home)}<figcaption>{escape(below)}<small>{escape(_named(line))}</small></figcaption></figure>"
        for line, below in zip(lines, told, strict=True)
    )
    return f'<div class="thumbs">{figures}</div>'


def _picture(line: Mapping[str, Any], arrays: dict[str, Arrays], home: Path) -> str:
    """arrays: those that were opened before, by their name."""
    try:
        reference = _reference(line, arrays, home)
        if reference is None:
            return "<p>It has changed since the evaluation.</p>"
        return f'<img alt="{escape(_named(line))}" src="{thumbnail(reference)}">'
    except (PtuneError, OSError, IndexError):
        return "<p>It is not there any more.</p>"


def _reference(line: Mapping[str, Any], arrays: dict[str, Arrays], home: Path) -> ImageRef | None:
    """The image of a line; None if it is another one now. Raises: DataError, OSError, IndexError if it is gone."""
    image, index = line["image"], line["image"]["index"]
    if index is None:
        path = home / Path(image["path"]).expanduser()
        same = hashlib.sha256(path.read_bytes()).hexdigest() == image["sha256"]
        return ImageRef(path) if same else None
    name = str(line["place"]).rpartition(", ")[0]
    if name not in arrays:
        arrays[name] = open_arrays(Path(name) if name.startswith("sample:") else home / name)
    pixels = arrays[name].images
    same = hashlib.sha256(np.ascontiguousarray(pixels[index]).data).hexdigest() == image["sha256"]
    return ImageRef(arrays[name].file, index, pixels) if same else None


def _named(line: Mapping[str, Any]) -> str:
    image = line["image"]
    return Path(image["path"]).name if image["index"] is None else str(line["place"])


CSS = """
#page .thumbs { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.thumbs figure { margin: 0; width: 7.5rem; font-size: 0.85rem; overflow-wrap: anywhere; }
.thumbs img { max-width: 100%; border-radius: var(--radius-md); }
.thumbs small { display: block; color: var(--body-text-color-subdued); }
"""
