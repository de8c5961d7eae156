"""Images in an npz file of numpy arrays; never unpickled."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.errors import DataError
from ptune.formats.whole_write import sha256_of

_SAMPLE = "sample:"
_SPLIT = re.compile(r"(?P<file>.*?)(?::(?P<split>train|test))?")


@dataclass(frozen=True)
class Arrays:
    """The images of one split."""

    file: Path
    sha256: str  # the file's
    images: NDArray[np.uint8]  # [n, height, width] or [n, height, width, 3]
    y: NDArray[Any]  # [n]
    names: tuple[str, ...]  # indexed by y; empty if y are names

    @property
    def labels(self) -> list[str | None]:
        """Label names; None for a number without a name."""
        if not self.names:
            return [str(label) for label in self.y.tolist()]
        return [self.names[label] if 0 <= label < len(self.names) else None for label in self.y.tolist()]

    def raw(self, index: int) -> Any:
        return self.y[index].item()


def is_arrays(path: Path) -> bool:
    """Whether a path, as the user wrote it, names an npz file or a sample of images."""
    named, _ = _parts(path)
    return named.endswith(".npz") or (named.startswith(_SAMPLE) and _sample(named) is not None)


def open_arrays(path: Path) -> Arrays:
    """Opens FILE.npz, FILE.npz:train or FILE.npz:test. Raises: DataError if it has no fitting arrays."""
    named, split = _parts(path)
    file = _sample(named) or Path(named).expanduser()
    if not file.is_file():
        raise DataError("there is no such file", file=str(path))
    try:
        with np.load(file, allow_pickle=False) as held:
            x, y = _keys(set(held.files), split, path)
            names = tuple(map(str, held["names"].tolist())) if "names" in held.files else ()
            arrays = Arrays(file, sha256_of(file), held[x], held[y], names)
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"not an npz file of plain arrays: {error}", file=str(path)) from None
    _check(arrays, x, y, path)
    return arrays


def _parts(path: Path) -> tuple[str, str | None]:
    match = _SPLIT.fullmatch(str(path))
    assert match is not None
    return match["file"], match["split"]


def _sample(named: str) -> Path | None:
    """The file of a sample such as sample:fashion; None if there is no such sample of images."""
    if not named.startswith(_SAMPLE):
        return None
    file = Path(__file__).parents[1] / "samples" / f"{named.removeprefix(_SAMPLE)}.npz"
    return file if file.is_file() else None


def _keys(there: set[str], split: str | None, path: Path) -> tuple[str, str]:
    """Finds the names of images and labels. Raises: DataError that lists the existing ones."""
    candidates = [("x", "y")] if split is None else []
    candidates += [(f"x_{one}", f"y_{one}") for one in ("train", "test") if split in (None, one)]
    matching = [pair for pair in candidates if there.issuperset(pair)]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(sorted(there)) or "nothing"
    if matching:
        raise DataError(f"holds several splits ({listed}): name {path}:train or {path}:test", file=str(path))
    names = " or ".join(f"{x} and {y}" for x, y in candidates)
    raise DataError(f"holds no arrays {names}; it holds {listed}", file=str(path))


def _check(arrays: Arrays, x: str, y: str, path: Path) -> None:
    """Raises: DataError for shapes or types that are not images with labels."""
    images, labels = arrays.images, arrays.y
    plain = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if images.dtype != np.uint8 or not plain:
        raise DataError(
            f"{x} is {images.dtype} {list(images.shape)}; expected uint8 [n, height, width] or [n, height, width, 3]",
            file=str(path),
        )
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iuUS"
        or (arrays.names and labels.dtype.kind not in "iu")
    ):
        raise DataError(
            f"{y} is {labels.dtype} {list(labels.shape)}; expected a number or a name for each image",
            file=str(path),
        )
    if len(images) != len(labels):
        raise DataError(f"{x} has {len(images)} images, {y} has {len(labels)} labels", file=str(path))
    if not len(images) or images.shape[1] * images.shape[2] <= 1:
        raise DataError(f"{x} holds nothing to be seen: {list(images.shape)}", file=str(path))
