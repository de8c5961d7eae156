"""The adapters that an engine serves: read from its bundle, found by name, replaced and dropped while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ptune.errors import AdapterError, RequestError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle

Served = TypeVar("Served")
Load = Callable[[Path, AdapterRecord], Served]
"""Reads an adapter's folder, whose files have been checked. Raises: AdapterError where it does not fit."""


class Registry(Generic[Served]):
    """Adapters of a bundle by their names, each as an engine holds it. All methods may be called from any thread.

    load: what makes of an adapter's folder what the engine needs of it.
    changed: the engine's own lock (reentrant), so that it can look an adapter up and queue a request in one piece.
    base_answers: whether the bare base is among what clients may ask for; only the messages differ.
    """

    def __init__(
        self, bundle: Bundle, load: Load[Served], changed: threading.Condition, *, base_answers: bool
    ) -> None:
        self.bundle = bundle  # as it was when an adapter was loaded last
        self._load, self._changed, self._base_answers = load, changed, base_answers
        self._served: dict[str, Served] = {}

    @property
    def names(self) -> list[str]:
        """Of the loaded adapters; the base is not among them."""
        with self._changed:
            return list(self._served)

    def load(self, name: str) -> None:
        """Loads an adapter of the bundle, also one that was added to it since; a loaded one is replaced.

        Raises: FormatError where the bundle has none or its files are damaged; AdapterError where it does not fit.
        """
        bundle = Bundle.open(self.bundle.folder)
        record, base = bundle.adapter(name), bundle.manifest.base.hash
        if record.base is not None and record.base != base:
            raise AdapterError(
                f"adapter {name!r} was trained on another base ({record.base}) than this ({base})"
            )
        bundle.check_files({f"adapters/{name}/{file}": digest for file, digest in record.files.items()})
        served = self._load(bundle.adapter_path(name), record)
        with self._changed:
            self.bundle = bundle
            self._served[name] = served

    def load_all(self) -> None:
        """Loads all adapters that the bundle names. Raises: as `load`."""
        for name in self.bundle.manifest.adapters:
            self.load(name)

    def find(self, name: str) -> Served | None:
        """A loaded adapter; None = the bare base. Raises: RequestError, 404, where there is none of that name."""
        if name == BASE:
            return None
        with self._changed:
            if name not in self._served:
                known = ", ".join([*([BASE] if self._base_answers else []), *self._served]) or "none"
                message = f"no adapter {name!r} here; served: {known}"
                raise RequestError(message, param="model", code="model_not_found", status=404)
            return self._served[name]

    def drop(self, name: str) -> None:
        """Forgets an adapter; requests that hold it finish. Raises: RequestError: 404, 400 for the base."""
        with self._changed:
            if self.find(name) is None:
                raise RequestError("the base cannot be dropped", param="model")
            del self._served[name]


def queue_full(waiting: int) -> RequestError:
    """What an engine answers whose queue is full."""
    return RequestError(f"{waiting} requests are waiting; try again later", code="queue_full", status=429)


def shutting_down() -> RequestError:
    """What an engine answers that takes no more requests."""
    return RequestError("the engine is shutting down", code="shutting_down", status=503)
