"""The models that are served: the base and its adapters, by the names that requests use."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from ptune.errors import RequestError
from ptune.formats.adapter_sum import AdapterSum, digest_of
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Manifest
from ptune.formats.task_names import CHAT, TRANSLATION
from ptune.kinds import SEQ2SEQ, of_task

from .adapters.aliases import NO_CALLER, resolve_alias
from .adapters.names import own_name

TRANSLATE = "/v1/translate"
LANGUAGES = ("source_language", "target_language")


class ModelListing(Protocol):
    """The models that are served."""

    def names(self) -> list[str]:
        """Names that requests can use, without aliases."""

    def aliases(self) -> list[str]:
        """Aliases of those names."""

    def own_name(self, model: str) -> str:
        """`model` without the bundle's name; as it is if nothing here is called so."""

    def parts(self, model: str) -> list[str]:
        """The names, as `own_name` writes them, that a request for `model` uses: those of a sum, or its own."""

    def resolve(self, model: str) -> str:
        """The adapter that `model` means. Raises: RequestError(404)."""

    def card(self, name: str) -> dict[str, Any]:
        """An entry of /v1/models."""


class GenerationEngine(Protocol):
    """An engine that generates text, as far as the catalogue needs it."""

    context: int  # tokens

    @property
    def bundle(self) -> Bundle: ...
    @property
    def adapters(self) -> list[str]: ...
    def record(self, name: str, /) -> AdapterRecord | None: ...


class Catalogue:
    """Resolves a request's `model` to an adapter, and describes each model for /v1/models."""

    def __init__(self, engine: GenerationEngine, *, require_parity: bool = False) -> None:
        self._engine = engine
        self._require_parity = require_parity
        self._bundle = engine.bundle.folder.resolve().name

    @property
    def _manifest(self) -> Manifest:
        return self._engine.bundle.manifest  # a new object after an adapter is loaded

    def names(self) -> list[str]:
        return [BASE, *self._engine.adapters]

    def aliases(self) -> list[str]:
        """Aliases of adapters that are served."""
        served = self._engine.adapters
        return [name for name, alias in self._manifest.aliases.items() if alias.name in served]

    def own_name(self, model: str) -> str:
        return own_name(model, self._bundle, self.names(), self.aliases())

    def adapter_for(self, model: str, caller: str = NO_CALLER) -> str:
        """The adapter that answers a request, or the sum. caller: gets the same adapter each time from an alias with a canary.

        Raises: RequestError: 404, as `resolve`; 400 for a sum that cannot be; 403 if the adapter is not measured and must be.
        """
        adapter = self.resolve(model, caller)
        record = self._engine.record(adapter)
        if self._require_parity and record is not None:
            require_measured(record)
        return adapter

    def parts(self, model: str) -> list[str]:
        """As `ModelListing.parts`."""
        own = self.own_name(model)
        found = None if own in (*self.names(), *self.aliases()) else AdapterSum.parsed(own)
        return [own] if found is None else found.names

    def resolve(self, model: str, caller: str = NO_CALLER) -> str:
        """The adapter that `model` means, or the sum in the one way to write it. caller: as `adapter_for` takes it.

        Raises: RequestError: 404 that lists the served models; 400 for a sum with the base.
        """
        own, aliases, names = self.own_name(model), self._manifest.aliases, self.names()
        adapter = resolve_alias(aliases, own, caller)
        if adapter in names:
            return adapter
        unknown = model
        if (found := AdapterSum.parsed(own)) is not None:
            meant = found.renamed(lambda part: resolve_alias(aliases, part, caller))
            missing = [name for name in found.names if resolve_alias(aliases, name, caller) not in names[1:]]
            if meant is not None and not missing:
                return meant.name
            if BASE in missing:
                message = f"model {model[:80]!r}: the base is in every sum; name adapters alone"
                raise RequestError(message, param="model", code="invalid_sum")
            unknown = missing[0] if missing else model
        message = f"no model {unknown[:80]!r} here; served: {', '.join(names)}"
        raise RequestError(message, param="model", code="model_not_found", status=404)

    def answered_by(self, adapter: str) -> str:
        """`name@hash12`, which identifies the weights. Raises: RequestError(404) if the adapter was removed."""
        manifest = self._manifest
        digest = manifest.base.hash if adapter == BASE else digest_of(adapter, manifest.adapters)
        return fingerprint(adapter, digest)

    def card(self, name: str) -> dict[str, Any]:
        """One entry of /v1/models: the fields of OpenAI, those of vLLM (`root`, `parent`, `max_model_len`), and more."""
        base, record = self._manifest.base, None if name == BASE else self._engine.record(name)
        translation = None if record is None else record.translation
        translates = of_task(self._manifest.task) is SEQ2SEQ  # its base translates, too
        return {
            "id": name,
            "object": "model",
            "created": int(datetime.fromisoformat(self._manifest.created).timestamp()),
            "owned_by": "ptune",
            "root": self._bundle,
            "parent": None if name == BASE else BASE,
            "max_model_len": self._engine.context - (0 if record is None else record.virtual_tokens),
            "fingerprint": self.answered_by(name),
            "source": base.source,
            "input_modalities": ["text", "image"] if self._manifest.vision else ["text"],
            "task": record.task if record is not None else TRANSLATION if translates else CHAT,
            **({"endpoint": TRANSLATE} if translates else {}),
            **({} if translation is None else {name: translation.get(name) for name in LANGUAGES}),
        }


def fingerprint(adapter: str, digest: str | None) -> str:
    """`name@hash12`. Raises: RequestError(404) if the adapter is no longer in the bundle."""
    if digest is None:
        raise RequestError(
            f"adapter {adapter!r} was removed", param="model", code="model_not_found", status=404
        )
    return f"{adapter}@{digest.rpartition(':')[2][:12]}"


def require_measured(record: AdapterRecord) -> None:
    """Raises: RequestError(403) if the adapter was not compared with torch."""
    if record.parity != "measured":
        raise RequestError(
            f"adapter {record.name!r} is unmeasured, and this server answers with measured adapters only "
            "(--require-parity): add it with `ptune add`, which measures it against torch",
            param="model",
            code="parity_unmeasured",
            status=403,
        )
