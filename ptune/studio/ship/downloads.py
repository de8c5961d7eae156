"""What can be taken out of the workspace over HTTP: a run's report, and adapters, bundles and GGUF exports as files.

Nothing is named by a path: a kind and a name choose the folder, and of a folder only its own regular files go out.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from ptune.errors import PtuneError, UsageError
from ptune.formats.gguf_export import RECORD
from ptune.studio.workspace import Workspace, checked

Kind: TypeAlias = Literal["adapter", "bundle", "gguf"]
CHUNK_BYTES = 2**20
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
)
"""A report loads nothing and runs nothing, whatever a model or a data file has written into it."""


def gguf_folder(workspace: Workspace, name: str) -> Path:
    """The folder of a GGUF export, as `ptune export --gguf` names it. Raises: UsageError."""
    return workspace.folder / "gguf" / checked(name)


def place(workspace: Workspace, kind: str, name: str) -> Path:
    """The folder of an adapter, a bundle or a GGUF export. Raises: UsageError if there is none of this name."""
    if kind not in get_args(Kind):
        raise UsageError(f"{kind!r} cannot be downloaded: take adapter, bundle or gguf")
    folder, mark = {
        "adapter": (workspace.run(name) / "adapter", "adapter_config.json"),
        "bundle": (workspace.bundle(name), "manifest.json"),
        "gguf": (gguf_folder(workspace, name), RECORD),
    }[kind]
    if not (folder / mark).is_file():
        raise UsageError(f"there is no {kind} {checked(name)!r} in this workspace")
    return folder


def own_files(folder: Path) -> list[tuple[str, Path]]:
    """The regular files below a folder by their paths in it; none that a link leads out of it."""
    top = folder.resolve()
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(folder)), path) for path in found if path.resolve().is_relative_to(top)]


def link(kind: Kind, name: str) -> str:
    """The address of a download, from the page."""
    return f"studio/download/{kind}/{quote(name)}"


def zipped(folder: Path, inside: str) -> Iterator[bytes]:
    """A folder as a zip file, made while it is sent: nothing is held in memory or on disk. Weights do not shrink, so it is
    stored as it is. inside: the folder that it unpacks to."""
    buffer = _Outlet()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, path in own_files(folder):
            entry = zipfile.ZipInfo.from_file(path, f"{inside}/{name}")
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    yield buffer.taken()
            yield buffer.taken()
    yield buffer.taken()


class _Outlet(io.RawIOBase):
    """A file that is written on one side and emptied on the other."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self._kept += content
        return len(content)

    def taken(self) -> bytes:
        content = bytes(self._kept)
        self._kept.clear()
        return content


def routes(workspace: Workspace) -> APIRouter:
    """The routes of the studio beside its page."""
    router = APIRouter(prefix="/studio")

    @router.get("/report/{name}")
    def report(name: str) -> Response:
        """A run's report.html."""
        try:
            path = workspace.run(name) / "report.html"
        except UsageError as error:
            return PlainTextResponse(f"{error}", 404)
        if not path.is_file():
            return PlainTextResponse(f"{checked(name)} has no report yet: evaluate it", 404)
        return FileResponse(
            path, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT_POLICY}
        )

    @router.get("/download/{kind}/{name}")
    def download(kind: str, name: str) -> Response:
        """A folder as a zip file."""
        try:
            folder = place(workspace, kind, name)
        except PtuneError as error:
            return PlainTextResponse(f"{error}", 404)
        file = f"{checked(name)}-{kind}"
        headers = {"content-disposition": f'attachment; filename="{file}.zip"'}
        return StreamingResponse(zipped(folder, file), media_type="application/zip", headers=headers)

    @router.get("/download/{kind}/{name}/{file}")
    def one(kind: str, name: str, file: str) -> Response:
        """One file of a folder, such as a GGUF file."""
        try:
            found = dict(own_files(place(workspace, kind, name)))
        except PtuneError as error:
            return PlainTextResponse(f"{error}", 404)
        if file not in found:
            return PlainTextResponse(f"there is no such file in {kind} {checked(name)}", 404)
        return FileResponse(found[file], filename=file, media_type="application/octet-stream")

    return router
