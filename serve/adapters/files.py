"""The files of an adapter to add: uploaded, or from a folder below the root that the operator allows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import UploadFile

from ptune.errors import RequestError

from ..http.form import not_stored, read_form

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REQUIRED = (CONFIG, WEIGHTS)
TOKENIZER = "tokenizer.json"
ACCEPTED = (*REQUIRED, "ptune.json", "chat_template.jinja", TOKENIZER)
SMALL_BYTES = 2**20  # limit of each file but the weights and the tokenizer
TOKENIZER_BYTES = 2**25


@contextmanager
def staged(files: Mapping[str, BinaryIO], name: str, limit_bytes: int) -> Iterator[Path]:
    """Writes files into a temporary folder named after the adapter.

    Raises: RequestError: 400 if files are missing, 413, 507 if the disk cannot store them.
    """
    missing = [file for file in REQUIRED if file not in files]
    if missing:
        raise _bad(f"{' and '.join(missing)} missing; pickles (.bin, .pt) are never opened", param="files")
    with _storage_errors(), TemporaryDirectory(prefix="ptune-adapter-") as parent:
        folder = Path(parent) / name
        folder.mkdir()
        for file, content in files.items():
            with (folder / file).open("wb") as written:
                shutil.copyfileobj(content, written, 2**20)
                size_bytes = written.tell()
            if size_bytes > _most_bytes(file, limit_bytes):
                raise too_large(limit_bytes)
        yield folder


@contextmanager
def of_folder(root: Path | None, path: str, name: str, limit_bytes: int) -> Iterator[Path]:
    """Copies the files of a PEFT folder, so that later changes to it do not matter.

    Raises: RequestError: 403 if the folder is not below the root, or one of its files links out of the root; 400; 413.
    """
    if root is None:
        raise _forbidden("this server has no --adapter-root: upload the files")
    top = root.resolve()
    try:
        folder = (top / path).resolve(strict=True)
        sources = {file: (folder / file).resolve() for file in ACCEPTED if (folder / file).is_file()}
    except (OSError, ValueError, RuntimeError):  # it does not exist, has a NUL, or links in a circle
        folder, sources = Path("/"), {}
    if folder == top or not all(path.is_relative_to(top) for path in (folder, *sources.values())):
        raise _forbidden("path must name a folder below this server's --adapter-root")
    files: dict[str, BinaryIO] = {}
    try:
        for file, source in sources.items():
            if source.stat().st_size > max(limit_bytes, _most_bytes(file, limit_bytes)):
                raise too_large(limit_bytes)
            files[file] = source.open("rb")
        with staged(files, name, limit_bytes) as stage:
            yield stage
    finally:
        for opened in files.values():
            opened.close()


def _most_bytes(file: str, limit_bytes: int) -> int:
    return {WEIGHTS: limit_bytes, TOKENIZER: TOKENIZER_BYTES}.get(file, SMALL_BYTES)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_stored(error) from None


async def uploaded(request: Request, limit_bytes: int) -> tuple[dict[str, BinaryIO], dict[str, str]]:
    """The files and the fields of a form; large files are kept on disk.

    Raises: RequestError: 400 if it is not a form, or has a file that is not accepted; 403 from another site's page; 408;
    413.
    """
    form = await read_form(
        request,
        limit_bytes=limit_bytes + len(ACCEPTED) * SMALL_BYTES + TOKENIZER_BYTES,
        too_large=too_large(limit_bytes),
        unreadable=_bad,
        max_files=len(ACCEPTED),
        max_fields=4,
    )
    files: dict[str, BinaryIO] = {}
    fields: dict[str, str] = {}
    for key, value in form.multi_items():
        if not isinstance(value, UploadFile):
            fields[key] = value
        elif value.filename not in ACCEPTED or value.filename in files:
            shown = (value.filename or "")[:80]
            raise _bad(f"file {shown!r}: an adapter has only {', '.join(ACCEPTED)}, each once", param="files")
        else:
            files[value.filename] = value.file
    return files, fields


def too_large(limit_bytes: int) -> RequestError:
    message = f"an adapter may have {limit_bytes} bytes here (--max-adapter-bytes), and each of its other files {SMALL_BYTES}"
    return RequestError(message, param="files", code="adapter_too_large", status=413)


def _bad(message: str, param: str | None = None) -> RequestError:
    return RequestError(message, param=param, code="invalid_adapter")


def _forbidden(message: str) -> RequestError:
    return RequestError(message, param="path", code="forbidden_path", status=403)
