"""The app of a server with several bundles. It owns keys, limits, files and batches; each bundle's own app answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from ptune.config.tasks import TASKS
from ptune.engine.memory import predicted_bytes, process_bytes, ram_bytes, reserved_bytes
from ptune.engine.options import EngineOptions
from ptune.errors import PtuneError, RequestError
from ptune.kinds import DECODER, imported

from ..adapters import routes as adapters
from ..app import assemble, batches_running
from ..open_inference import models as models_v2
from ..responses import stored
from ..responses.store import ResponseStore
from . import endpoints
from .bundles import Bundles
from .folder import PlacedBundle, SeveralBundles, find_bundles
from .forward import forwarding, forwarding_to_bundle
from .loaded import LoadedBundle, Opening
from .metrics import HostMetrics
from .names import BundleNames, catalogue_of
from .service import HostHealth, HostService
from .table import Entry, Table, gigabytes

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..service import Settings

_OF_FREE = 0.8  # of the memory that is free at the start: what bundles may take if nothing is said
_log = logging.getLogger("ptune.serve")


def open_host(several: SeveralBundles, options: EngineOptions, opening: Opening) -> Host:
    """A host of bundles, none of which is loaded yet. Raises: UsageError; FormatError."""
    several.check()
    places = {place.name: place for place in find_bundles(several.folders)}
    for place in {place.kind.name: place for place in places.values()}.values():
        imported(place.kind.model)  # before anything is measured: code is not what a bundle takes
    budget_bytes = int(ram_bytes() * _OF_FREE) if several.memory_bytes is None else several.memory_bytes
    return Host(places, options, opening, budget_bytes, several.idle_s)


class Host:
    """Several bundles, each loaded when it is asked for, as the model of one app."""

    def __init__(
        self,
        places: Mapping[str, PlacedBundle],
        options: EngineOptions,
        opening: Opening,
        budget_bytes: int,
        idle_s: float,
        measured: Callable[[], int | None] = process_bytes,
    ) -> None:
        self._places, self._opening = places, opening
        self._options = {name: _options_of(place, options) for name, place in places.items()}
        entries = [
            Entry(name, predicted_bytes(places[name].bundle, mine)) for name, mine in self._options.items()
        ]
        chosen_s = {name: place.options.idle_s for name, place in places.items()}
        self.bundles = Bundles(
            Table(entries, budget_bytes),
            self._load,
            {name: idle_s if own_s is None else own_s for name, own_s in chosen_s.items()},
            reserved=lambda name: reserved_bytes(places[name].bundle, self._options[name]),
            measured=measured,
        )
        self._service: HostService | None = None

    @property
    def told(self) -> str:
        """What a start says of it."""
        table = self.bundles.table
        each = ", ".join(f"{entry.name} {gigabytes(entry.needed_bytes)}" for entry in table)
        return f"Bundles may take {gigabytes(table.budget_bytes)} together; predicted: {each}"

    def close(self) -> None:
        """Closes what is loaded."""
        self.bundles.close()

    def create(self, settings: Settings) -> FastAPI:
        """The app of all bundles."""
        names = BundleNames(self.bundles, {name: catalogue_of(place) for name, place in self._places.items()})
        self._service = HostService(
            settings=replace(settings, key_here=names.for_key),
            catalogue=names,
            metrics=HostMetrics(self.bundles),
            health=HostHealth(self.bundles, settings.step_limit_s),
            places=self._places,
            bundles=self.bundles,
            responses=ResponseStore(settings.max_stored_bytes),
        )
        return assemble(
            self._service,
            *TASKS,
            unmetered=(endpoints.router, stored.router),
            unguarded=(models_v2.opened,),
            metered=(models_v2.router,),
            administered=(endpoints.changing,),
            answered_by=lambda router: (forwarding_to_bundle if router is adapters.router else forwarding)(
                router
            ),
            lifespan=self._living,
        )

    def _load(self, name: str) -> LoadedBundle:
        """Opens a bundle and makes its app. Raises: PtuneError, without the server's paths."""
        service, place = self._service, self._places[name]
        assert service is not None, "the app was made"
        shared = replace(
            service.settings,
            files=None,
            responses=service.responses,
            key_here=partial(service.catalogue.for_key_in, name),
            in_use=partial(self.bundles.while_loaded, name),
        )
        try:
            model, create = self._opening(place.folder, self._options[name])
        except PtuneError as error:
            raise PtuneError(str(error).replace(str(place.folder), name)) from None
        loaded = LoadedBundle(model, create(place.options.of_service(shared)))
        loaded.service.running = service.running  # those in progress of all bundles end together
        return loaded

    @asynccontextmanager
    async def _living(self, app: FastAPI) -> AsyncIterator[None]:
        """While the server runs: batches, and first the bundles that are to be loaded from the start."""
        wanted = [name for name, place in self._places.items() if place.options.preload]
        loading = asyncio.create_task(self._preload(wanted))
        try:
            async with batches_running(app):
                yield
        finally:
            loading.cancel()

    async def _preload(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                async with self.bundles.using(name):
                    _log.info("bundle %s is loaded", name)
            except RequestError as error:
                _log.error("%s", error)


def _options_of(place: PlacedBundle, options: EngineOptions) -> EngineOptions:
    """The engine's options for a bundle: those of decoders for decoders alone. Raises: UsageError; FormatError."""
    if place.kind is not DECODER:
        options = EngineOptions(**asdict(options.shared()))
    own = place.options.of_engine(options)
    own.check()
    place.bundle.graph_path(own.profile)
    return own
