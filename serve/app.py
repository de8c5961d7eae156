"""The HTTP app: the endpoints of one bundle's task, and what an operator needs beside them."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from ptune.config.tasks import Task, code, of_kind, routers_of, tasks_of
from ptune.formats.task_names import TRANSLATION

from . import adapters, errors
from .adapter_store import AdapterStore
from .catalogue import Catalogue
from .encoder_catalogue import EncoderCatalogue
from .encoder_metrics import EncoderMetrics
from .gate import Gate
from .health import Health
from .metrics import Metrics, SequenceMetrics
from .openapi import document
from .request_log import RequestLog
from .service import (
    ChatService,
    EncoderService,
    Seq2SeqService,
    Service,
    Settings,
    TheService,
    accepting,
    administering,
    admitted,
    authorized,
    rightly_addressed,
    scraping,
)
from .usage import check_permitted, key_of, permitted

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

open_to_all = APIRouter()
keyed = APIRouter()
scraped = APIRouter()


def create_app(model: ChatModel, settings: Settings = Settings()) -> FastAPI:
    """The app that serves a chat bundle. The model is loaded and proved already: a server that listens is ready."""
    service = ChatService(
        model=model,
        settings=settings,
        catalogue=Catalogue(model.engine, require_parity=settings.require_parity),
        metrics=Metrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters, model.codec_for),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    return _app(service, *of_kind("decoder"))


def create_seq2seq_app(model: Seq2SeqModel, settings: Settings = Settings()) -> FastAPI:
    """The app that serves an encoder-decoder's bundle, likewise."""
    service = Seq2SeqService(
        model=model,
        settings=settings,
        catalogue=Catalogue(model.engine, require_parity=settings.require_parity),
        metrics=SequenceMetrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    return _app(service, *tasks_of(TRANSLATION))


def create_encoder_app(model: EncoderModel, settings: Settings = Settings()) -> FastAPI:
    """The app that serves an encoder's bundle, likewise."""
    service = EncoderService(
        model=model,
        settings=settings,
        catalogue=EncoderCatalogue(model.engine, require_parity=settings.require_parity),
        metrics=EncoderMetrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters),
        health=Health(model.engine.metrics, settings.step_limit_s),
    )
    return _app(service, *of_kind("encoder"))


def _app(service: Service, *tasks: Task) -> FastAPI:
    """What every app has, and the endpoints of these tasks.

    There are no CORS headers: a web page of another origin cannot read what a local model says. The interactive
    documentation is off, because its page loads scripts from elsewhere.
    """
    app = FastAPI(
        title="ptune",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(rightly_addressed)],
    )
    app.state.service = service
    endpoints: list[APIRouter] = [code(place) for place in routers_of(*tasks)]
    administered = [adapters.router] if service.settings.adapters_api else []
    documented = (open_to_all, keyed, scraped, *endpoints, *administered)
    app.state.document = cache(partial(document, *documented))  # made when asked for
    app.add_middleware(Gate)
    app.add_middleware(RequestLog)  # the outer one
    errors.install(app)
    app.include_router(open_to_all)
    app.include_router(keyed, dependencies=[Depends(authorized)])
    app.include_router(scraped, dependencies=[Depends(scraping)])
    for router in endpoints:
        asking = [Depends(authorized), Depends(accepting), Depends(admitted)]
        app.include_router(router, dependencies=asking)
    for router in administered:
        app.include_router(router, dependencies=[Depends(administering), Depends(accepting)])
    return app


@open_to_all.get("/health")
async def health(service: TheService) -> dict[str, str]:
    """The process lives and its engine gets on; 503 where a step is stuck, or all of them fail."""
    service.health.check()
    return {"status": "ok"}


@open_to_all.get("/ready", dependencies=[Depends(accepting)])
async def ready(service: TheService) -> dict[str, str]:
    """Requests are welcome; 503 while draining, or where the engine is stuck."""
    service.health.check()
    return {"status": "ready"}


@open_to_all.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """What this server offers. There is no page that shows it: such pages load scripts from elsewhere."""
    return JSONResponse(request.app.state.document())


@keyed.get("/v1/models")
async def models(service: TheService, http: Request) -> dict[str, Any]:
    """The adapters, and the base where it answers by itself, that the key may ask for."""
    names = permitted(key_of(http), service.catalogue)
    return {"object": "list", "data": [_card(service, name) for name in names]}


@keyed.get("/v1/models/{model}")
async def one_model(model: str, service: TheService, http: Request) -> dict[str, Any]:
    """One of them."""
    check_permitted(http, service.catalogue, model)
    return _card(service, model)


def _card(service: Service, model: str) -> dict[str, Any]:
    """Of an adapter, or of an alias as the adapter that it stands for."""
    name = service.catalogue.resolve(model)
    card = service.catalogue.card(name)
    return {**card, "id": model, "parent": name} if model in service.catalogue.aliases() else card


@scraped.get("/metrics")
async def metrics(service: TheService) -> Response:
    """Prometheus' text format."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
