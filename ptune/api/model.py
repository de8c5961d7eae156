"""The base of all opened models: `with`, `repr`, and an error for methods of another kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from ptune.codecs.image import is_opened
from ptune.engine.base import EngineBase
from ptune.engine.options import BatchKeywords
from ptune.errors import RequestError, UsageError
from ptune.formats.bundle import BASE, AdapterRecord

if TYPE_CHECKING:
    from typing import Self

METHODS = {
    "chat": "a decoder",
    "complete": "a decoder",
    "classify": "an encoder",
    "tag": "an encoder",
    "embed": "an encoder",
    "rerank": "an encoder",
    "recommend": "an encoder",
    "translate": "an encoder-decoder",
}
"""Method -> the kind of bundle that has it. Each has an asyncio variant, whose name begins with an a."""


class EncoderOptions(BatchKeywords, total=False):
    """Options of opening an encoder or an encoder-decoder: those of `BatchOptions`, and `replay_golden`."""

    replay_golden: bool  # whether to compare this machine's numbers with the exporting one's; default: yes


class OpenModel:
    """A bundle in memory. `with` closes it; any thread may use it."""

    kind: ClassVar[str]
    engine: Any

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    def __repr__(self) -> str:
        """The model in short: ChatModel('bundles/mine', adapters: mine)."""
        adapters = ", ".join(self.engine.adapters) or "none"
        return f"{type(self).__name__}({str(self.engine.bundle.folder)!r}, adapters: {adapters})"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raises: AttributeError that names the kind of this bundle and its methods."""
            method = name if name in METHODS else name.removeprefix("a")
            if method not in METHODS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            own = ", ".join(other for other, kind in METHODS.items() if kind == self.kind)
            raise AttributeError(
                f"{self.engine.bundle.folder} is a bundle of {self.kind}, which has {own}; {name} needs one of "
                f"{METHODS[method]}"
            )


def adapter_or_base(engine: EngineBase[Any, Any, Any, Any], asked: str | None) -> str:
    """The named adapter, else the bundle's only one, else the base."""
    if asked is not None:
        return asked
    names = engine.adapters
    return names[0] if len(names) == 1 else BASE


def only_adapter(
    engine: EngineBase[Any, Any, Any, Any],
    asked: str | None,
    does: str,
    fits: Iterable[AdapterRecord],
    every: Iterable[AdapterRecord],
) -> str:
    """The named adapter, or the only one that `fits`.

    does: what it should do, e.g. "classifies". Raises: RequestError that lists the bundle's adapters.
    """
    if asked is not None:
        return asked
    names = [record.name for record in fits]
    if len(names) == 1:
        return names[0]
    folder = engine.bundle.folder
    if names:
        raise RequestError(
            f"say which adapter of {folder}: adapter={' or '.join(map(repr, names))}", param="model"
        )
    known = ", ".join(f"{record.name} ({record.task})" for record in every) or "none"
    raise RequestError(f"no adapter of {folder} {does}; its adapters: {known}", param="model")


def listed(inputs: Any) -> Sequence[Any]:
    """Inputs as a list. A single text or image is a list of one, as over HTTP: its letters are no texts of their own."""
    alone = isinstance(inputs, str | bytes | Path) or is_opened(inputs)
    return [inputs] if alone else inputs


def check_options(kind: str, options: dict[str, Any], known: Iterable[str]) -> None:
    """Raises: UsageError for an option that this kind of engine does not have."""
    known = sorted(known)
    for name in options:
        if name not in known:
            raise UsageError(f"a bundle of {kind} takes no {name}; it takes {', '.join(known)}")
