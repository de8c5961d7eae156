"""Which models are served: the base and its adapters, by the names that requests use."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from ptune.errors import RequestError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Manifest
from ptune.formats.task_names import CHAT, TRANSLATION
from ptune.kinds import SEQ2SEQ, of_task

from .aliases import MAIN, chosen

TRANSLATE = "/v1/translate"


class Writer(Protocol):
    """What engines that write say of what they serve."""

    context: int  # tokens

    @property
    def bundle(self) -> Bundle: ...
    @property
    def adapters(self) -> list[str]: ...
    def record(self, name: str, /) -> AdapterRecord | None: ...


class Catalogue:
    """From a request's `model` to an adapter, and what /v1/models says of each."""

    def __init__(self, engine: Writer, *, require_parity: bool = False) -> None:
        self._engine = engine
        self._require_parity = require_parity
        self._bundle = engine.bundle.folder.resolve().name

    @property
    def _manifest(self) -> Manifest:
        return self._engine.bundle.manifest  # another one once an adapter is loaded

    def names(self) -> list[str]:
        return [BASE, *self._engine.adapters]

    def aliases(self) -> list[str]:
        """Those that stand for an adapter that is served."""
        served = self._engine.adapters
        return [alias for alias, said in self._manifest.aliases.items() if said.name in served]

    def answering(self, model: str, key: str = MAIN) -> str:
        """The adapter that answers a request. key: of a caller, who gets the same adapter of an alias each time.

        Raises: RequestError: 404, as `resolve`; 403 for one that was not measured, where that is required.
        """
        adapter = self.resolve(chosen(self._manifest.aliases, model, key))
        if self._require_parity and (record := self._engine.record(adapter)) is not None:
            require_measured(record)
        return adapter

    def resolve(self, model: str) -> str:
        """The adapter that `model` means. The bundle's own name means the base, unless an adapter bears it.

        Raises: RequestError(404) that lists what is served.
        """
        model = chosen(self._manifest.aliases, model, MAIN)
        names = self.names()
        if model in names:
            return model
        if model == self._bundle:
            return BASE
        message = f"no model {model[:80]!r} here; served: {', '.join(names)}"
        raise RequestError(message, param="model", code="model_not_found", status=404)

    def answered_by(self, adapter: str) -> str:
        """`name@hash12`: exactly which weights answered. Raises: RequestError(404) where it was removed meanwhile."""
        manifest = self._manifest
        return fingerprint(adapter, manifest.base.hash if adapter == BASE else manifest.adapters.get(adapter))

    def card(self, name: str) -> dict[str, Any]:
        """One entry of /v1/models: OpenAI's fields, vLLM's (`root`, `parent`, `max_model_len`) and ours."""
        base, record = self._manifest.base, None if name == BASE else self._engine.record(name)
        said = None if record is None else record.translation
        translates = of_task(self._manifest.task) is SEQ2SEQ  # the base, too, and nothing else
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
            "task": record.task if record is not None else TRANSLATION if translates else CHAT,
            **({"endpoint": TRANSLATE} if translates else {}),
            **(
                {} if said is None else {one: said.get(one) for one in ("source_language", "target_language")}
            ),
        }


def fingerprint(adapter: str, digest: str | None) -> str:
    """`name@hash12`. Raises: RequestError(404) for an adapter that is in the bundle no more."""
    if digest is None:
        raise RequestError(
            f"adapter {adapter!r} was removed", param="model", code="model_not_found", status=404
        )
    return f"{adapter}@{digest.rpartition(':')[2][:12]}"


def require_measured(record: AdapterRecord) -> None:
    """Raises: RequestError(403) for an adapter that nobody has compared with torch."""
    if record.parity != "measured":
        raise RequestError(
            f"adapter {record.name!r} is unmeasured, and this server answers with measured ones only "
            "(--require-parity): `ptune add` measures an adapter against torch as it adds it",
            param="model",
            code="parity_unmeasured",
            status=403,
        )
