"""The HTTP app: the endpoints of one bundle's task, and what an operator needs beside them."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from . import adapters, chat, classify, completions, errors, tag, tokens
from .adapter_store import AdapterStore
from .catalogue import Catalogue
from .encoder_catalogue import EncoderCatalogue
from .encoder_metrics import EncoderMetrics
from .metrics import Metrics
from .openapi import document
from .request_log import RequestLog
from .service import (
    ChatService,
    EncoderService,
    Service,
    Settings,
    TheService,
    accepting,
    administering,
    authorized,
    rightly_addressed,
)

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.classification.infer import EncoderModel

open_to_all = APIRouter()
keyed = APIRouter()


def create_app(model: ChatModel, settings: Settings = Settings()) -> FastAPI:
    """The app that serves a chat bundle. The model is loaded and proved already: a server that listens is ready."""
    service = ChatService(
        model=model,
        settings=settings,
        catalogue=Catalogue(model.engine, require_parity=settings.require_parity),
        metrics=Metrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters, model.codec_for),
    )
    return _app(service, chat.router, completions.router, tokens.router)


def create_encoder_app(model: EncoderModel, settings: Settings = Settings()) -> FastAPI:
    """The app that serves an encoder's bundle, likewise."""
    service = EncoderService(
        model=model,
        settings=settings,
        catalogue=EncoderCatalogue(model.engine, require_parity=settings.require_parity),
        metrics=EncoderMetrics(model.engine),
        store=AdapterStore(model.engine, settings.max_adapters),
    )
    return _app(service, classify.router, tag.router)


def _app(service: Service, *endpoints: APIRouter) -> FastAPI:
    """What every task's app has.

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
    administered = [adapters.router] if service.settings.adapters_api else []
    documented = (open_to_all, keyed, *endpoints, *administered)
    app.state.document = cache(partial(document, *documented))  # made when asked for
    app.add_middleware(RequestLog)
    errors.install(app)
    app.include_router(open_to_all)
    app.include_router(keyed, dependencies=[Depends(authorized)])
    for router in endpoints:
        app.include_router(router, dependencies=[Depends(authorized), Depends(accepting)])
    for router in administered:
        app.include_router(router, dependencies=[Depends(administering), Depends(accepting)])
    return app


@open_to_all.get("/health")
async def health() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@open_to_all.get("/ready", dependencies=[Depends(accepting)])
async def ready() -> dict[str, str]:
    """Requests are welcome; 503 while draining."""
    return {"status": "ready"}


@open_to_all.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """What this server offers. There is no page that shows it: such pages load scripts from elsewhere."""
    return JSONResponse(request.app.state.document())


@keyed.get("/v1/models")
async def models(service: TheService) -> dict[str, Any]:
    """The adapters, and the base where it answers by itself."""
    catalogue = service.catalogue
    cards = [catalogue.card(name) for name in catalogue.names()]
    return {"object": "list", "data": cards + [_alias_card(service, alias) for alias in catalogue.aliases()]}


@keyed.get("/v1/models/{model}")
async def one_model(model: str, service: TheService) -> dict[str, Any]:
    """One of them."""
    if model in service.catalogue.aliases():
        return _alias_card(service, model)
    return service.catalogue.card(service.catalogue.resolve(model))


def _alias_card(service: Service, alias: str) -> dict[str, Any]:
    name = service.catalogue.resolve(alias)
    return {**service.catalogue.card(name), "id": alias, "parent": name}


@keyed.get("/metrics")
async def metrics(service: TheService) -> Response:
    """Prometheus' text format."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
