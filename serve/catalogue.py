"""Which models are served: the base and its adapters, by the names that requests use."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ptune.errors import RequestError
from ptune.formats.bundle import BASE, Manifest

if TYPE_CHECKING:
    from ptune.engine.engine import Engine


class Catalogue:
    """From a request's `model` to an adapter, and what /v1/models says of each."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bundle = engine.bundle.folder.resolve().name

    @property
    def _manifest(self) -> Manifest:
        return self._engine.bundle.manifest  # another one once an adapter is loaded

    def names(self) -> list[str]:
        return [BASE, *self._engine.adapters]

    def resolve(self, model: str) -> str:
        """The adapter that `model` means. The bundle's own name means the base, unless an adapter bears it.

        Raises: RequestError(404) that lists what is served.
        """
        names = self.names()
        if model in names:
            return model
        if model == self._bundle:
            return BASE
        message = f"no model {model[:80]!r} here; served: {', '.join(names)}"
        raise RequestError(message, param="model", code="model_not_found", status=404)

    def answered_by(self, adapter: str) -> str:
        """`name@hash12`: exactly which weights answered."""
        manifest = self._manifest
        digest = manifest.base.hash if adapter == BASE else manifest.adapters[adapter]
        return f"{adapter}@{digest.rpartition(':')[2][:12]}"

    def card(self, name: str) -> dict[str, Any]:
        """One entry of /v1/models: OpenAI's fields, vLLM's (`root`, `parent`, `max_model_len`) and ours."""
        base = self._manifest.base
        return {
            "id": name,
            "object": "model",
            "created": int(datetime.fromisoformat(self._manifest.created).timestamp()),
            "owned_by": "ptune",
            "root": self._bundle,
            "parent": None if name == BASE else BASE,
            "max_model_len": self._engine.context,
            "fingerprint": self.answered_by(name),
            "source": base.source,
            "task": "chat",
        }
