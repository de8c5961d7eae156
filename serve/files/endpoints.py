"""/v1/files: OpenAI's Files API, for the inputs and outputs of batches."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse
from starlette.datastructures import FormData, UploadFile

from ptune.errors import RequestError

from ..http.body import media_type
from ..http.context import key_of
from ..http.dependencies import ServiceDep, refuse_while_draining
from ..http.form import read_form
from .listing import check_names, page_of, word_of
from .store import ServedFiles
from .stored_file import KEPT_S

router = APIRouter()
FORM_BYTES = 2**16
"""Of a form, besides its file."""
MOST_UPLOADS = 8
"""At once: each is on the system's temporary disk before it is checked."""
_SECONDS, _ANCHOR = "expires_after[seconds]", "expires_after[anchor]"


def files_of(service: ServiceDep) -> ServedFiles:
    """The files of this server. Raises: RequestError(404) if it keeps none."""
    if service.files is None:
        raise files_are_off()
    return service.files


def files_are_off() -> RequestError:
    """The error of a server that keeps no files, and so runs no batches."""
    message = "this server keeps no files and runs no batches; start it with --files FOLDER"
    return RequestError(message, code="files_off", status=404)


FilesDep = Annotated[ServedFiles, Depends(files_of)]


@router.post("/v1/files", dependencies=[Depends(refuse_while_draining)])
async def upload(http: HttpRequest, files: FilesDep) -> dict[str, Any]:
    """Stores a file of requests for a batch. Each line is checked; the first that cannot be used is named."""
    if media_type(http) != "multipart/form-data":
        message = "send `Content-Type: multipart/form-data` with the fields file and purpose"
        raise RequestError(message, code="unsupported_media_type", status=415)
    if files.arriving >= MOST_UPLOADS:
        raise RequestError(
            f"{MOST_UPLOADS} files arrive already; try again later", code="queue_full", status=429
        )
    files.arriving += 1
    try:
        most = files.store.max_file_bytes
        form = await read_form(
            http,
            limit_bytes=most + FORM_BYTES,
            too_large=_too_large(most),
            unreadable=_bad,
            max_files=1,
            max_fields=4,
        )
        try:
            file, kept_s = _file_of(form), _kept_s(form)
            if file.size is None or file.size > most:
                raise _too_large(most)
            name = (file.filename or "batch.jsonl")[:256]
            return await asyncio.to_thread(_stored, files, key_of(http).name, name, file.file, kept_s)
        finally:
            await form.close()
    finally:
        files.arriving -= 1


@router.get("/v1/files")
async def files_of_key(http: HttpRequest, files: FilesDep) -> dict[str, Any]:
    """The files of this key."""
    check_names(http.query_params, "purpose", "order", "limit", "after")
    purpose = http.query_params.get("purpose")
    newest_first = word_of(http, "order", ("desc", "asc")) == "desc"
    found = await asyncio.to_thread(files.store.of_key, key_of(http).name)
    cards = [file.card() for file in found if purpose in (None, file.purpose)]
    return page_of(http, cards[::-1] if newest_first else cards, most=10_000, default=10_000)


@router.get("/v1/files/{file_id}")
async def one_file(file_id: str, http: HttpRequest, files: FilesDep) -> dict[str, Any]:
    """One file of this key."""
    return files.store.find(key_of(http).name, file_id).card()


@router.get("/v1/files/{file_id}/content")
async def content(file_id: str, http: HttpRequest, files: FilesDep) -> FileResponse:
    """What a file holds."""
    found = files.store.find(key_of(http).name, file_id)
    return FileResponse(files.store.content(found.id), media_type="application/jsonl")


@router.delete("/v1/files/{file_id}")
async def delete(file_id: str, http: HttpRequest, files: FilesDep) -> dict[str, Any]:
    """Deletes a file of this key, unless a batch still reads it."""
    await asyncio.to_thread(files.store.delete, key_of(http).name, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _stored(files: ServedFiles, key: str, name: str, content: BinaryIO, kept_s: int) -> dict[str, Any]:
    """Checks and stores what was uploaded. Runs on another thread."""
    content.seek(0)
    files.inputs.check(content)
    return files.store.add(key, name, content, kept_s).card()


def _file_of(form: FormData) -> UploadFile:
    """The file of a form. Raises: RequestError(400) if it is not there, or the form has something else."""
    check_names(form, "file", "purpose", _ANCHOR, _SECONDS)
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise _bad("file: the form has no file of this name", "file")
    if purpose != "batch":
        shown = "is missing" if purpose is None else f"is {str(purpose)[:40]!r}"
        raise _bad(f"purpose: must be 'batch', since files are for batches here ({shown})", "purpose")
    return file


def _kept_s(form: FormData) -> int:
    """How long a file is to be kept, in seconds. Raises: RequestError(400)."""
    seconds = form.get(_SECONDS, str(KEPT_S))
    if form.get(_ANCHOR, "created_at") != "created_at":
        raise _bad(f"{_ANCHOR}: must be created_at", _ANCHOR)
    number = int(seconds) if isinstance(seconds, str) and re.fullmatch("[0-9]{4,7}", seconds) else 0
    if not 3600 <= number <= KEPT_S:
        raise _bad(f"{_SECONDS}: must be from 3600 to {KEPT_S}", _SECONDS)
    return number


def _too_large(most: int) -> RequestError:
    message = f"a file may have {most} bytes here (--max-file-bytes); send several"
    return RequestError(message, param="file", code="file_too_large", status=413)


def _bad(message: str, param: str | None = None) -> RequestError:
    return RequestError(message, param=param, code="invalid_file")
