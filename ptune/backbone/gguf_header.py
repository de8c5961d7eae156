"""One text out of a GGUF file's metadata. The `gguf` package would build objects for the whole vocabulary first.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic, uint32 version, uint64 number
of tensors, uint64 number of fields; a field is its name, a uint32 type and a value. A text is a uint64 length and UTF-8.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ptune.errors import FormatError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of number
_TEXT, _ARRAY = 8, 9


def text_field(path: Path, name: str) -> str | None:
    """The text of a metadata field; None where the file has no such field or it is no text.

    Raises: FormatError where the file is no GGUF, is cut off or is of a layout other than versions 2 and 3.
    """
    with path.open("rb") as file:
        try:
            magic = file.read(4)
            version, _, fields = _unpack(file, "<IQQ")
            if magic != b"GGUF" or version not in (2, 3):
                raise FormatError(f"{path} is no GGUF file of version 2 or 3")
            for _ in range(fields):
                found, (kind,) = _text(file), _unpack(file, "<I")
                if found == name:
                    return _text(file) if kind == _TEXT else None
                _skip(file, kind)
        except (struct.error, KeyError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is damaged: {error}") from None
    return None


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    return file.read(length).decode()


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _TEXT:
        (length,) = _unpack(file, "<Q")
        file.seek(length, os.SEEK_CUR)
    elif kind == _ARRAY:
        of, count = _unpack(file, "<IQ")
        if of in _SIZES:
            file.seek(count * _SIZES[of], os.SEEK_CUR)
        else:
            for _ in range(count):
                _skip(file, of)
    else:
        file.seek(_SIZES[kind], os.SEEK_CUR)
