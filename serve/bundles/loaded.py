"""A bundle in memory: its model, its app, and what it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ptune.engine.memory import trim

from ..service import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from ptune.engine.options import EngineOptions

    from ..service import BundleService


class Closable(Protocol):
    """A model, as far as its end is concerned."""

    def close(self) -> None: ...


Opening = Callable[["Path", "EngineOptions"], tuple[Closable, Callable[[Settings], "FastAPI"]]]
"""Opens a bundle's folder: the model, and the function that makes its app."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle that answers."""

    model: Closable
    app: FastAPI

    @property
    def service(self) -> BundleService:
        service: BundleService = self.app.state.service
        return service


def give_memory_back() -> None:
    """Frees what a closed model leaves behind, and returns free pages to the system where glibc keeps them."""
    gc.collect()  # an app and its endpoints refer to each other
    trim()
