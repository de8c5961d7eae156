"""Labelled images: a folder with one folder per label, a table of `image,label`, or an npz of arrays.

An npz holds `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test` (FILE.npz:train and FILE.npz:test choose), and
`names` if `y` are indices of names. Torch-free.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.image import open_image
from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.columns import ImageColumns
from ptune.data.images.arrays import Arrays, is_arrays, open_arrays
from ptune.data.images.look import Look, look_at, look_at_file
from ptune.data.problems import Problems
from ptune.data.read import DataFile, open_file
from ptune.data.readers.rows import Row
from ptune.data.shapes.labelled import LabelledRow
from ptune.data.shapes.named_columns import found
from ptune.errors import DataError
from ptune.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

FOLDER = "image folder"  # the format of a folder with one folder per label
IMAGE_COLUMNS = ("image", "path", "file_name")
LABEL_COLUMNS = ("label",)
_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
_OTHER_FILES = (
    "Thumbs.db",
    "desktop.ini",
)  # files of file browsers, besides names that begin with a dot


@dataclass(frozen=True)
class ImageRef:
    """An image that is read on demand: a file, or an element of an array."""

    path: Path
    index: int | None = None  # in `array`
    array: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    sha256: str = ""  # of the file's bytes, or of the pixels
    look: Look | None = field(default=None, repr=False, compare=False)  # after it was decoded

    def open(self) -> Image.Image:
        """Reads the image as RGB. Raises: DataError, without a place, if it cannot be used."""
        if self.array is None:
            return open_image(self.path)
        from PIL import Image

        return Image.fromarray(self.array[self.index]).convert("RGB")


@dataclass(frozen=True)
class Named:
    """An image and its label's name, as in the user's files."""

    image: ImageRef
    label: str
    number: int  # its line or row
    columns: dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """An image that cannot be used."""

    number: int  # its line or row
    name: str  # its path, relative to the folder or the table's folder
    path: Path
    reason: str

    @property
    def told(self) -> str:
        """The problem, in the words of `Problems`."""
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class ImageSource:
    """All images of one of the user's paths. problems: the unusable ones, including the `damaged` ones."""

    path: Path
    format: str
    sha256: str
    rows: list[Named]
    row_count: int  # including unusable ones
    problems: Problems
    damaged: list[Damaged] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return self.format == FOLDER

    def check(self) -> None:
        """Raises: DataError that lists all problems."""
        self.problems.raise_if_any(self.row_count)

    def described(self) -> dict[str, Any]:
        """The source for data.json."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.format,
            "shape": "images",
            "rows": self.row_count,
        }


def open_images(path: Path, named: ImageColumns) -> ImageSource:
    """Reads every image of a path once; the columns of a table may be `named`. Single unusable images become problems.

    Raises: DataError if the path as a whole cannot be used.
    """
    if is_arrays(path):
        return _of_arrays(path, open_arrays(path))
    folder = path.expanduser()
    if folder.is_dir():
        return _checked(path, FOLDER, "", _in_folder(folder), Problems(str(path), "image"))
    file = open_file(path)
    problems = file.problems()
    rows = list(_in_table(file, list(file.rows(problems)), problems, named))
    return _checked(path, file.reader.format, file.sha256, rows, problems)


def read_images(paths: Sequence[Path], task: ImageClassification, labels: Labels) -> list[LabelledRow]:
    """Reads all images of these paths, in order, with labels as indices into `labels`.

    Raises: DataError that names every unusable image and every label that is not among `labels`.
    """
    return [row for path in paths for row in labelled(open_images(path, task.columns), labels)]


def labelled(source: ImageSource, labels: Labels) -> list[LabelledRow]:
    """A source's rows. Raises: DataError as `read_images`."""
    rows = [row for row, _ in looked_up(source, labels)]
    source.check()
    return rows


def looked_up(source: ImageSource, labels: Labels) -> list[tuple[LabelledRow, int]]:
    """Returns a source's rows with label indices, and their numbers; unknown labels become problems."""
    index_of = {name: index for index, name in enumerate(labels.names)}
    rows, problems = [], source.problems
    for row in source.rows:
        if row.label in index_of:
            place = f"{source.path}, {problems.unit} {row.number}"
            rows.append((LabelledRow(row.image, index_of[row.label], place, row.columns), row.number))
        else:
            problems.add(row.number, f"label {row.label!r} is none of {_some(labels.names)}")
    return rows


def labels_of(sources: Iterable[ImageSource], asked: Sequence[str]) -> tuple[str, ...]:
    """The labels `asked` for, else all existing ones, sorted (numbers by value)."""
    names = {row.label for source in sources for row in source.rows}
    numbers = all(name.isdecimal() for name in names)
    return tuple(asked) or tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _in_folder(folder: Path) -> list[Named]:
    """Lists LABEL/…/FILE, sorted. Raises: DataError if the folder has another layout."""
    entries = [entry for entry in sorted(folder.iterdir()) if not _ignored(entry)]
    labels = [entry for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if not entry.is_dir()]
    if loose:
        raise DataError(
            f"{loose[0]} lies in no label's folder (expected FOLDER/LABEL/IMAGE)", file=str(folder)
        )
    if not labels:
        raise DataError("the folder is empty (expected FOLDER/LABEL/IMAGE)", file=str(folder))
    rows: list[Named] = []
    for label in labels:
        files = [path for path in sorted(label.rglob("*")) if path.is_file() and not _ignored(path)]
        if not files:
            raise DataError(f"the folder of the label {label.name!r} holds no image", file=str(folder))
        _refuse_splits(folder, label, files)
        rows += [
            Named(ImageRef(file), label.name, number, {}) for number, file in enumerate(files, len(rows) + 1)
        ]
    return rows


def _refuse_splits(folder: Path, label: Path, files: list[Path]) -> None:
    """Raises: DataError if the folders of labels are splits."""
    if label.name.casefold() in _SPLIT_NAMES and all(f.parent != label for f in files):
        raise DataError(
            f"{label.name}/ holds folders of labels itself: name it as --data.files {folder}/train, "
            f"--data.validation {folder}/val or --data.test {folder}/test",
            file=str(folder),
        )


def _ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name in _OTHER_FILES


def _in_table(
    file: DataFile, rows: Sequence[Row], problems: Problems, named: ImageColumns
) -> Iterator[Named]:
    """Lists rows of `image,label`, with paths relative to the table's folder. Raises: DataError for missing columns."""
    if not rows:
        return
    folder = file.path.expanduser().parent
    usual = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS}
    wanted = {column: named.names(column, names) for column, names in usual.items()}
    columns = tuple(found(file, [row.value for row in rows], wanted).values())
    for row in rows:
        image, label = (row.value.get(column) for column in columns)
        if not isinstance(image, str) or not image:
            problems.add(row.number, f"has no path in the column {columns[0]!r}")
        elif label is None or str(label).strip() == "":
            problems.add(row.number, f"has no label in the column {columns[1]!r}")
        else:
            others = {name: value for name, value in row.value.items() if name not in columns}
            yield Named(ImageRef(folder / os.path.expanduser(image)), str(label).strip(), row.number, others)


def _checked(path: Path, format_: str, sha256: str, rows: list[Named], problems: Problems) -> ImageSource:
    """Reads every file once: hashes it and checks that it can be decoded."""
    usable: list[Named] = []
    damaged: list[Damaged] = []
    digest = hashlib.sha256(sha256.encode())
    with Progress(f"reading the images of {path}", len(rows), unit="images") as progress:
        for row in rows:
            name = _relative(row.image.path, path)
            try:
                raw = _bytes(row.image.path)
                look = look_at_file(raw, open_image(raw))
            except DataError as error:
                damaged.append(Damaged(row.number, name, row.image.path, str(error)))
                problems.add(row.number, damaged[-1].told)
            else:
                content = hashlib.sha256(raw).hexdigest()
                digest.update(f"{name}\0{row.label}\0{content}\n".encode())
                image = ImageRef(row.image.path, sha256=content, look=look)
                usable.append(replace(row, image=image))
            progress.advance()
    if not rows and not problems.count:
        raise DataError("the file holds no rows", file=str(path))
    count = len(usable) + problems.count
    return ImageSource(path, format_, digest.hexdigest(), usable, count, problems, damaged)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("there is no such file") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL character, or half of a surrogate pair
        raise DataError("can be no file's name") from None


def _relative(file: Path, path: Path) -> str:
    base = path.expanduser() if path.expanduser().is_dir() else path.expanduser().parent
    return str(file.relative_to(base)) if file.is_relative_to(base) else str(file)


def _of_arrays(path: Path, arrays: Arrays) -> ImageSource:
    problems, rows = Problems(str(path), "row"), []
    for index, label in enumerate(arrays.labels):
        if label is None:
            problems.add(
                index + 1, f"label {arrays.raw(index)} stands for none of the {len(arrays.names)} names"
            )
            continue
        pixels = np.ascontiguousarray(arrays.images[index])
        image = ImageRef(arrays.file, index, arrays.images, hashlib.sha256(pixels.data).hexdigest())
        look = look_at(image.open(), "L" if pixels.ndim == 2 else "RGB")
        rows.append(Named(replace(image, look=look), label, index + 1, {}))
    return ImageSource(path, "npz", arrays.sha256, rows, len(rows) + problems.count, problems)


def _some(labels: Sequence[str], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
