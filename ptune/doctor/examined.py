"""The interface between a task's doctor and the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Examined:
    """A recipe's data, examined. Output is made on demand."""

    described: Callable[[], dict[str, Any]]  # everything as JSON types
    show: Callable[[Console], None]
    has_errors: bool
    rows: Callable[[int], list[dict[str, Any]]] | None = (
        None  # so many training rows as the model sees them (`ptune.doctor.seen`), where the task can show them
    )
