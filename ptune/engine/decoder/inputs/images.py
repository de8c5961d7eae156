"""Images in an engine: what a bundle's vision graph makes of them, and the tokens that stand for it.

Each row of an image's features is a token of its own, from FIRST_ROW on, and a number that was given away is never given to
another image. So the cache of prefixes, forks and preemption treat images as text: the same tokens are the same image.
Recent images are remembered by their pixels, so that one that comes again is not computed again, and is found in the cache.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.codecs.tiles import Grid
from ptune.codecs.vision import FIRST_ROW, Layout
from ptune.engine.onnx_graph import open_graph
from ptune.formats.bundle import Bundle

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

KEPT_BYTES = 256 << 20  # of features that are remembered


@dataclass(frozen=True, eq=False)
class Picture:
    """The rows of features of one image."""

    first: int  # the token of the first row
    rows: Rows  # [rows, width]
    places: Grid | None = None  # rows down and across, where each has a position by its place (M-RoPE)

    @property
    def tokens(self) -> range:
        """The tokens of its rows."""
        return range(self.first, self.first + len(self.rows))


NO_PICTURES: tuple[Picture, ...] = ()


def put_rows(
    pictures: Sequence[Picture], ids: Ids, kept: npt.NDArray[np.bool_], shift: Rows
) -> tuple[npt.NDArray[np.bool_], Rows]:
    """For tokens [t]: `kept` [t] and `shift` [t, width] of their embeddings, with the rows of pictures in place of embeddings."""
    for picture in pictures:
        mine = (ids >= picture.first) & (ids < picture.tokens.stop)
        kept[mine], shift[mine] = False, picture.rows[ids[mine] - picture.first]
    return kept, shift


class Tower:
    """A bundle's vision graph. Its methods may be called from any thread; images are computed one at a time."""

    def __init__(self, path: Path, threads: int | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        """Raises: FormatError where onnxruntime cannot load the graph."""
        self._session: Any = open_graph(path, threads)
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._recent: OrderedDict[bytes, Picture] = OrderedDict()  # by the hash of the pixels
        self._next = FIRST_ROW
        self.computed = 0  # images that were not remembered

    @classmethod
    def of(cls, bundle: Bundle, threads: int | None = None) -> Tower | None:
        """A bundle's; None if its model sees no images. Raises: FormatError where a file is damaged."""
        if bundle.vision_path is None:
            return None
        bundle.check_files(bundle.manifest.vision)
        return cls(bundle.vision_path, threads)

    def see(self, tiles: Rows, layout: Layout) -> Picture:
        """The rows of an image's normalised tiles [tiles, 3, height, width]; the same picture for the same pixels and layout,
        while they are remembered."""
        seen = hashlib.sha256(np.ascontiguousarray(tiles).data)
        seen.update(repr(layout.grid).encode())
        seen.update(b"" if layout.order is None else layout.order.tobytes())
        key = seen.digest()
        with self._lock:
            if (known := self._recent.get(key)) is not None:
                self._recent.move_to_end(key)
                return known
            picture = Picture(self._next, layout.arranged(self._computed(tiles, layout)), layout.places)
            self._next += len(picture.rows)
            self.computed += 1
            self._recent[key] = picture
            self._forget()
            return picture

    def _computed(self, tiles: Rows, layout: Layout) -> Rows:
        """The rows of all tiles, one after the other: [tiles * tile_rows, width]."""
        if layout.told is not None:
            (rows,) = self._session.run(["rows"], {"pixel_values": tiles, **layout.told})
            return np.concatenate([*rows])
        made = [self._session.run(["rows"], {"pixel_values": tile[None]})[0][0] for tile in tiles]
        return np.concatenate(made)

    def _forget(self) -> None:
        """Forgets what was not asked for the longest time; requests under way keep theirs."""
        held = sum(picture.rows.nbytes for picture in self._recent.values())
        while held > self._kept_bytes and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            held -= oldest.rows.nbytes
