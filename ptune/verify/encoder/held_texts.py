"""The held-out texts on which a bundle's profiles are compared; stored in it, so that it can be verified anywhere.

golden/held.npz     all tokens in one row, `input_ids`, `token_type_ids`, and `first`: whether a word begins there;
                    `lengths` of the texts. Texts with one answer for the whole have no `first`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptune.errors import FormatError
from ptune.formats.whole_write import whole_file
from ptune.tasks.encoder.infer import Encoded

FILE = "golden/held.npz"
MOST = 5000


def save(texts: Sequence[Encoded], bundle: Path) -> None:
    """Writes texts into a bundle."""
    names = texts[0].inputs
    arrays = {name: np.concatenate([one.inputs[name] for one in texts]).astype(np.int32) for name in names}
    first = [np.isin(np.arange(len(one.inputs["input_ids"])), one.first or ()) for one in texts]
    lengths = [len(one.inputs["input_ids"]) for one in texts]
    with whole_file(bundle / FILE) as part, part.open("wb") as file:
        np.savez_compressed(file, lengths=np.array(lengths), first=np.concatenate(first), **arrays)  # type: ignore[arg-type]


def load(bundle: Path) -> list[Encoded]:
    """Reads a bundle's texts. Raises: FormatError."""
    path = bundle / FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        ends = np.cumsum(arrays.pop("lengths"))[:-1]
        first = [tuple(np.flatnonzero(one).tolist()) for one in np.split(arrays.pop("first"), ends)]
        rows = {name: np.split(array.astype(np.int64), ends) for name, array in arrays.items()}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is missing or damaged: {error}") from None
    return [
        Encoded({name: rows[name][index] for name in rows}, words or None)
        for index, words in enumerate(first)
    ]
