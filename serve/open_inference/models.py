"""GET /v2 and /v2/models/{model}: what the server and an adapter are, in the Open Inference Protocol's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune.errors import RequestError
from ptune.version import __version__

from ..adapters.access import check_permitted
from ..http.context import key_of
from ..http.dependencies import EncoderServiceDep, refuse_while_draining
from .tensors import tensors_of

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

    from ..service import EncoderService

router = APIRouter()
server_router = APIRouter()
"""What a server with several bundles answers itself."""
opened = APIRouter()
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


@opened.get("/v2/health/live")
async def live(service: EncoderServiceDep) -> dict[str, bool]:
    """The process is alive and its engine makes progress; 503 otherwise."""
    service.health.check()
    return {"live": True}


@opened.get("/v2/health/ready", dependencies=[Depends(refuse_while_draining)])
async def ready(service: EncoderServiceDep) -> dict[str, bool]:
    """The server accepts requests; 503 otherwise."""
    service.health.check()
    return {"ready": True}


@server_router.get("/v2")
async def server() -> dict[str, Any]:
    """What the server is."""
    return {"name": "ptune", "version": __version__, "extensions": []}


@router.get(MODEL)
async def model_metadata(model: str, service: EncoderServiceDep, http: HttpRequest) -> dict[str, Any]:
    """An adapter's tensors."""
    return _metadata(model, service, record_of(http, service, model))


@router.get(VERSION)
async def version_metadata(
    model: str, version: str, service: EncoderServiceDep, http: HttpRequest
) -> dict[str, Any]:
    """The same of this version, which is 12 digits of the adapter's hash."""
    record = record_of(http, service, model)
    check_version(service, record, version)
    return _metadata(model, service, record)


@server_router.get(f"{MODEL}/ready", dependencies=[Depends(refuse_while_draining)])
async def model_ready(model: str, service: EncoderServiceDep, http: HttpRequest) -> dict[str, Any]:
    """Whether an adapter answers: one that is served does."""
    record_of(http, service, model)
    service.health.check()
    return {"name": model, "ready": True}


@router.get(f"{VERSION}/ready", dependencies=[Depends(refuse_while_draining)])
async def version_ready(
    model: str, version: str, service: EncoderServiceDep, http: HttpRequest
) -> dict[str, Any]:
    """The same of this version."""
    check_version(service, record_of(http, service, model), version)
    service.health.check()
    return {"name": model, "ready": True}


def record_of(http: HttpRequest, service: EncoderService, model: str) -> AdapterRecord:
    """The adapter of this name. Raises: RequestError(404)."""
    check_permitted(key_of(http), service.catalogue, model)
    return service.model.engine.record(service.catalogue.resolve(model))


def version_of(service: EncoderService, record: AdapterRecord) -> str:
    """The only version of an adapter that is served: 12 digits of its hash."""
    return service.catalogue.answered_by(record.name).rpartition("@")[2]


def check_version(service: EncoderService, record: AdapterRecord, version: str | None) -> None:
    """Raises: RequestError(404) for another version than the one that is served."""
    served = version_of(service, record)
    if version not in (None, served):
        message = f"{record.name} is served in version {served} alone (asked for: {str(version)[:40]!r})"
        raise RequestError(message, param="version", code="version_not_found", status=404)


def _metadata(model: str, service: EncoderService, record: AdapterRecord) -> dict[str, Any]:
    tensors = tensors_of(record)
    return {
        "name": model,
        "versions": [version_of(service, record)],
        "platform": "onnxruntime_onnx",
        "inputs": [tensor.card(record) for tensor in tensors.inputs],
        "outputs": [tensor.card(record) for tensor in tensors.outputs],
    }
