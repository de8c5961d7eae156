"""A replica: one copy of the model with the app of `ptune serve`, which requests reach through `answer`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray import serve
from starlette.requests import HTTPConnection

from ptune.errors import PtuneError, RequestError

from ..access.auth import ApiKeys
from ..http import json_log
from ..http.dependencies import authorization, check_host
from ..lifecycle import check_memory, opened
from ..service import BundleService
from .affinity import Route
from .arguments import Arguments
from .ledger import BEAT_S, Held, SharedKeys
from .load import LOAD, load_of
from .tunnel import REPLICA_HEADER, Part, Refusal, Start, answered

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_log = logging.getLogger("ptune.serve")


class Replica:
    """Loads the bundle and verifies it, as `ptune serve` does; Ray starts another one where this one dies."""

    def __init__(self, given: dict[str, Any], ledger: DeploymentHandle) -> None:
        arguments = Arguments.read(given)
        if arguments.log_json:
            json_log.log_json()
        self._name = serve.get_replica_context().replica_id.unique_id
        self._keys = self._read_keys(arguments, ledger)
        self._options = arguments.engine_options()
        check_memory(self._options)
        self._model, create = opened(arguments.bundle, self._options)
        self._app = create(arguments.served_settings(self._keys))
        self._service: BundleService = self._app.state.service
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ptune-follow", daemon=True).start()

    async def answer(self, route: Route, scope: dict[str, Any], body: bytes) -> AsyncIterator[Part]:
        """The app's answer to a request. route: by which the router chose this replica."""
        async with aclosing(answered(self._app, scope, body)) as parts:
            async for part in parts:
                if isinstance(part, Start):
                    part.headers.append((REPLICA_HEADER, self._name.encode()))
                yield part

    async def refusal(self, scope: dict[str, Any]) -> Refusal | None:
        """Why a request is refused by its headers, whatever it asks for; None where it is not."""
        http = HTTPConnection({**scope, "app": self._app})
        try:
            check_host(http, self._service)
            self._service.settings.api_keys.check(authorization(http))
        except RequestError as error:
            return str(error), error.code, error.status
        return None

    async def follow(self) -> None:
        """Serves the adapters that the bundle's folder holds now. Raises: RequestError."""
        await asyncio.to_thread(self._service.store.follow)

    async def exposed(self) -> tuple[str, bytes]:
        """The replica's name and metrics."""
        return self._name, self._service.metrics.exposition()

    async def problem(self) -> str | None:
        """What is wrong with the engine; None where nothing is."""
        return self._service.health.problem()

    async def check_health(self) -> None:
        """Ray replaces the replica whose engine is stuck. Raises: PtuneError."""
        if (problem := await self.problem()) is not None:
            raise PtuneError(problem)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling counts."""
        return {LOAD: load_of(self._model.engine.stats(), self._options)}

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._closed.set()
            self._model.close()

    def _read_keys(self, arguments: Arguments, ledger: DeploymentHandle) -> ApiKeys:
        if arguments.api_key_file is None:
            return ApiKeys()
        keys = SharedKeys.read(arguments.api_key_file)
        assert isinstance(keys, SharedKeys)
        keys.ledger, keys.replica, keys.held = ledger, self._name, Held()
        return keys

    def _watch(self) -> None:
        """Follows the bundle's folder, which other replicas and `ptune add` change, and tells the ledger of this life."""
        while not self._closed.wait(BEAT_S):
            try:
                self._service.store.follow()
            except Exception as error:
                _log.error("the bundle's folder cannot be followed: %s", error)
            if isinstance(self._keys, SharedKeys):
                self._keys.beat()
