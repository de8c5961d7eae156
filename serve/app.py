"""The HTTP app: the endpoints for the bundle's kind of model, and those for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from ptune.config.tasks import Task, of_kind, routers_of, tasks_of
from ptune.formats.task_names import TRANSLATION
from ptune.kinds import imported

from .adapters import routes as adapters
from .adapters.access import check_permitted, permitted_models
from .adapters.store import AdapterStore
from .batches import endpoints as batch_endpoints
from .batches.ask import AskApp
from .batches.runner import BatchRunner
from .batches.store import BatchStore
from .catalogue import Catalogue
from .encoders.catalogue import EncoderCatalogue
from .files import endpoints as file_endpoints
from .files.lines import InputLines
from .files.store import FileStore, ServedFiles
from .health import Health
from .http import errors
from .http.context import key_of
from .http.dependencies import (
    ServiceDep,
    authorize_admin,
    authorize_inference,
    authorize_metrics,
    check_host,
    refuse_while_draining,
)
from .http.framing import RequestFraming
from .http.rate_limiting import LeaseRelease, acquire_lease
from .http.request_log import RequestLog
from .metrics.encoder import EncoderMetrics
from .metrics.registry import Metrics, SequenceMetrics
from .ollama import models as ollama_models
from .open_inference import models as models_v2
from .openapi import document
from .responses import create, stored
from .responses.store import ResponseStore
from .rollout import feedback
from .rollout.trials import Trials
from .service import (
    ChatService,
    EncoderService,
    Seq2SeqService,
    Service,
    Settings,
)

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

_OF_A_LINE_BYTES = 4096  # of a batch, beside the body
open_to_all = APIRouter()
keyed = APIRouter()
scraped = APIRouter()


def create_app(model: ChatModel, settings: Settings = Settings()) -> FastAPI:
    """The app for a bundle of a causal language model, which is loaded and verified: a server that listens is ready."""
    service = ChatService(
        model=model,
        settings=settings,
        catalogue=Catalogue(model.engine, require_parity=settings.require_parity),
        metrics=Metrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters, model.codec_for, settings.max_adapter_bytes),
        responses=settings.responses or ResponseStore(settings.max_stored_bytes),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    return assemble(service, *of_kind("decoder"), unmetered=(stored.router,))


def create_seq2seq_app(model: Seq2SeqModel, settings: Settings = Settings()) -> FastAPI:
    """The app for a bundle of an encoder-decoder, which is loaded and verified."""
    service = Seq2SeqService(
        model=model,
        settings=settings,
        catalogue=Catalogue(model.engine, require_parity=settings.require_parity),
        metrics=SequenceMetrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    return assemble(service, *tasks_of(TRANSLATION))


def create_encoder_app(model: EncoderModel, settings: Settings = Settings()) -> FastAPI:
    """The app for a bundle of an encoder, which is loaded and verified."""
    service = EncoderService(
        model=model,
        settings=settings,
        catalogue=EncoderCatalogue(model.engine, require_parity=settings.require_parity),
        metrics=EncoderMetrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    unmetered = (models_v2.router, models_v2.server_router)
    return assemble(service, *of_kind("encoder"), unmetered=unmetered, unguarded=(models_v2.opened,))


def _itself(router: APIRouter) -> APIRouter:
    return router


def assemble(
    service: Service,
    *tasks: Task,
    unmetered: Sequence[APIRouter] = (),
    unguarded: Sequence[APIRouter] = (),
    metered: Sequence[APIRouter] = (),
    administered: Sequence[APIRouter] = (),
    answered_by: Callable[[APIRouter], APIRouter] = _itself,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """Assembles an app from the endpoints of these tasks and those that every app has.

    unmetered: further endpoints that need a key, but compute nothing, and so work where a limit is reached.
    unguarded: further endpoints that need no key, and tell nothing. metered: further ones that a key's limits count.
    administered: further ones that need a key of scope admin. answered_by: the router that answers in place of one for
    a bundle, at the same paths. lifespan: in place of `_working`.

    There are no CORS headers, so that a web page of another origin cannot read what a local model answers. FastAPI's
    interactive documentation is off, because its page loads scripts from other servers.
    """
    app = FastAPI(
        title="ptune",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(check_host)],
        lifespan=lifespan or _working,
    )
    app.state.service = service
    endpoints: list[APIRouter] = [*(imported(place) for place in routers_of(*tasks)), *metered]
    changing = [adapters.router] if service.settings.adapters_api else []
    if service.settings.files is not None:
        _keep_files(app, service, service.settings.files, tasks)
    unmetered = (
        keyed,
        feedback.router,
        ollama_models.router,
        file_endpoints.router,
        batch_endpoints.router,
        *unmetered,
    )
    unguarded = (open_to_all, *unguarded)
    documented = (*unguarded, *unmetered, scraped, *endpoints, *changing, *administered)
    app.state.document = cache(partial(document, *documented))  # built at the first request
    app.add_middleware(LeaseRelease)
    app.add_middleware(RequestFraming)
    app.add_middleware(RequestLog)  # the outermost
    errors.install(app)
    for router in unguarded:
        app.include_router(router)
    for router in unmetered:
        app.include_router(router, dependencies=[Depends(authorize_inference)])
    app.include_router(scraped, dependencies=[Depends(authorize_metrics)])
    for router in endpoints:
        checks = [Depends(authorize_inference), Depends(refuse_while_draining), Depends(acquire_lease)]
        app.include_router(answered_by(router), dependencies=checks)
    for router in (*map(answered_by, changing), *administered):
        app.include_router(router, dependencies=[Depends(authorize_admin), Depends(refuse_while_draining)])
    return app


def _keep_files(app: FastAPI, service: Service, files: FileStore, tasks: Sequence[Task]) -> None:
    """Gives an app files, and batches that ask the endpoints of its tasks."""
    keys = service.settings.api_keys
    asked = {path for task in tasks for path in task.endpoints}
    if any(create.router is imported(place) for place in routers_of(*tasks)):
        asked.add("/v1/responses")
    lines = service.settings.batch_lines

    def lines_of_key(name: str) -> int:
        """A key that may ask for so many at a time keeps half of them for what it asks itself."""
        key = keys.named(name)
        concurrent = None if key is None else key.limits.concurrent
        return lines if concurrent is None else max(1, min(lines, concurrent // 2))

    inputs = InputLines(asked, service.max_body_bytes + _OF_A_LINE_BYTES)
    service.files = ServedFiles(files, inputs)
    service.batches = BatchRunner(BatchStore(files), AskApp(app, service), inputs, lines, lines_of_key)


@asynccontextmanager
async def batches_running(app: FastAPI) -> AsyncIterator[None]:
    """Batches run while the server does."""
    batches: BatchRunner | None = app.state.service.batches
    if batches is None:
        yield
        return
    batches.start()
    try:
        yield
    finally:
        await batches.close()


@asynccontextmanager
async def _working(app: FastAPI) -> AsyncIterator[None]:
    """While the server runs: batches, and the trials of a bundle's canaries."""
    trials: Trials = app.state.service.trials
    trials.begin_all()
    try:
        async with batches_running(app):
            yield
    finally:
        await trials.close()


@open_to_all.get("/health")
async def health(service: ServiceDep) -> dict[str, str]:
    """The process is alive and its engine makes progress; 503 if a step is stuck, or all steps fail."""
    service.health.check()
    return {"status": "ok"}


@open_to_all.get("/ready", dependencies=[Depends(refuse_while_draining)])
async def ready(service: ServiceDep) -> dict[str, str]:
    """The server accepts requests; 503 while it shuts down, or if the engine is unhealthy."""
    service.health.check()
    return {"status": "ready"}


@open_to_all.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document of this server."""
    return JSONResponse(request.app.state.document())


@keyed.get("/v1/models")
async def models(service: ServiceDep, http: Request) -> dict[str, Any]:
    """The models that the key may use: the adapters, and the base if it can answer."""
    names = permitted_models(key_of(http), service.catalogue)
    return {"object": "list", "data": [_card(service, name) for name in names]}


@keyed.get("/v1/models/{model}")
async def one_model(model: str, service: ServiceDep, http: Request) -> dict[str, Any]:
    """One model."""
    check_permitted(key_of(http), service.catalogue, model)
    return _card(service, model)


def _card(service: Service, model: str) -> dict[str, Any]:
    """The card of an adapter, or of an alias: its adapter's, under the alias's name."""
    name = service.catalogue.resolve(model)
    card = service.catalogue.card(name)
    return {**card, "id": model, "parent": name} if model in service.catalogue.aliases() else card


@scraped.get("/metrics")
async def metrics(service: ServiceDep) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
