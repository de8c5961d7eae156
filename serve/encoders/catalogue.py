"""The adapters of an encoder that are served. The base is not: it has no head."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ptune.config.tasks import endpoints_of
from ptune.errors import RequestError
from ptune.formats.bundle import AdapterRecord

from ..adapters.aliases import NO_CALLER, resolve_alias
from ..adapters.names import own_name
from ..catalogue import fingerprint, require_measured

if TYPE_CHECKING:
    from ptune.engine.encoder.engine import EncoderEngine


class EncoderCatalogue:
    """Resolves a request's `model` to an adapter, and describes each adapter for /v1/models."""

    def __init__(self, engine: EncoderEngine, *, require_parity: bool = False) -> None:
        self._engine = engine
        self._require_parity = require_parity
        self._bundle = engine.bundle.folder.resolve().name

    def names(self) -> list[str]:
        return list(self._engine.adapters)

    def aliases(self) -> list[str]:
        """Aliases of adapters that are served."""
        served, aliases = self._engine.adapters, self._engine.bundle.manifest.aliases
        return [name for name, alias in aliases.items() if alias.name in served]

    def own_name(self, model: str) -> str:
        return own_name(model, self._bundle, self.names(), self.aliases())

    def parts(self, model: str) -> list[str]:
        """As `ptune_serve.catalogue.ModelListing.parts`; there are no sums here."""
        return [self.own_name(model)]

    def resolve(self, model: str) -> str:
        """The adapter that `model` means. Raises: RequestError(404) that lists the served adapters."""
        adapter = resolve_alias(self._engine.bundle.manifest.aliases, self.own_name(model))
        names = self.names()
        if adapter in names:
            return adapter
        reason = (
            ": the base of an encoder has no head to answer with" if adapter in ("base", self._bundle) else ""
        )
        message = f"no model {model[:80]!r} here{reason}; served: {', '.join(names) or 'none'}"
        raise RequestError(message, param="model", code="model_not_found", status=404)

    def record_for(self, model: str, endpoint: str, caller: str = NO_CALLER) -> AdapterRecord:
        """The adapter that answers a request. caller: gets the same adapter each time from an alias with a canary.

        Raises: RequestError: 404; 400 if its task has another endpoint; 403 if it is not measured and must be.
        """
        model = resolve_alias(self._engine.bundle.manifest.aliases, self.own_name(model), caller)
        record = self._engine.record(self.resolve(model))
        expected, *others = endpoints_of(record.task)
        if endpoint not in (expected, *others):
            message = (
                f"{record.name} is an adapter for {record.task}: send this to {expected}, not to {endpoint}"
            )
            raise RequestError(message, param="model", code="wrong_endpoint")
        if self._require_parity:
            require_measured(record)
        return record

    def answered_by(self, adapter: str) -> str:
        """`name@hash12`, which identifies the weights. Raises: RequestError(404) if the adapter was removed."""
        return fingerprint(adapter, self._engine.bundle.manifest.adapters.get(adapter))

    def card(self, name: str) -> dict[str, Any]:
        """One entry of /v1/models: the fields of OpenAI, those of vLLM (`root`, `parent`, `max_model_len`), and more."""
        manifest, record = self._engine.bundle.manifest, self._engine.record(name)
        return {
            "id": name,
            "object": "model",
            "created": int(datetime.fromisoformat(manifest.created).timestamp()),
            "owned_by": "ptune",
            "root": self._bundle,
            "parent": None,
            "max_model_len": record.max_length or self._engine.context or None,
            "fingerprint": self.answered_by(name),
            "source": manifest.base.source,
            "task": record.task,
            "problem": record.problem,
            "labels": list(record.labels),
            "endpoint": endpoints_of(record.task)[0],
            **({} if record.embedding is None else {"embedding": record.embedding}),
        }
