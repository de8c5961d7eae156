"""What the endpoints of a server with several bundles share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends

from ptune.errors import RequestError
from ptune.formats.signature import EncoderSignature

from ..health import Health
from ..http.dependencies import service_of
from ..service import Service

if TYPE_CHECKING:
    from ..responses.store import ResponseStore
    from .bundles import Bundles
    from .folder import PlacedBundle
    from .names import BundleNames


@dataclass(kw_only=True)
class HostService(Service):
    """Several bundles. Requests in progress of all of them are in `running`."""

    places: Mapping[str, PlacedBundle]
    bundles: Bundles
    catalogue: BundleNames
    responses: ResponseStore

    @cached_property
    def _accepts_images(self) -> bool:
        manifests = [place.bundle.manifest for place in self.places.values()]
        signatures = (manifest.signature for manifest in manifests)
        images = any(isinstance(one, EncoderSignature) and one.modality == "image" for one in signatures)
        return images or any(manifest.vision for manifest in manifests)

    @property
    def max_body_bytes(self) -> int:
        """Of the bundle that takes most; the bundle that is asked then has its own limit."""
        return self.settings.max_images_bytes if self._accepts_images else self.settings.max_body_bytes

    def answering(self, model: str) -> Service:
        loaded = self.bundles.loaded(self.catalogue.find(model).bundle)
        return self if loaded is None else loaded.service

    async def judged(self, answer_id: str, key: str, score: float) -> bool:
        """As of the loaded bundle that gave the answer, unless several gave one of this id; what one that was unloaded waits for
        is forgotten."""
        services = [loaded.service for _, loaded in self.bundles.in_memory()]
        asked = [service for service in services if service.waiting.knows(answer_id, key)]
        return len(asked) == 1 and await asked[0].judged(answer_id, key, score)

    def bundle(self, name: str) -> PlacedBundle:
        """A bundle. Raises: RequestError(404)."""
        if name not in self.places:
            message = f"no bundle {name[:80]!r} here; there are {', '.join(self.places)}"
            raise RequestError(message, param="bundle", code="bundle_not_found", status=404)
        return self.places[name]


HostServiceDep = Annotated[HostService, Depends(service_of)]


class HostHealth(Health):
    """The health of all engines. bundles: those that are loaded are asked."""

    def __init__(self, bundles: Bundles, step_limit_s: float) -> None:
        self._bundles = bundles
        self._step_limit_s = step_limit_s

    def problem(self) -> str | None:
        for name, loaded in self._bundles.in_memory():
            if (problem := loaded.service.health.problem()) is not None:
                return f"bundle {name}: {problem}"
        return None
