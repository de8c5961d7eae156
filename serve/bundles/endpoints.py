"""What is loaded and what is not: Ollama's /api/ps, and the Open Inference Protocol's model repository."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict

from ptune.errors import RequestError
from ptune.version import __version__

from ..adapters.access import check_permitted, permitted_models
from ..http.body import raw_body, validated
from ..http.context import key_of
from ..http.dependencies import refuse_while_draining
from ..ollama.schemas import LATEST
from .service import HostService, HostServiceDep

router = APIRouter()
changing = APIRouter()
REPOSITORY = "/v2/repository"
_FAR = timedelta(days=365 * 100)  # where nothing but the need of others ends it
_STATES = {"loaded": "READY", "loading": "LOADING", "unloading": "UNLOADING", "unloaded": "UNAVAILABLE"}


class IndexRequest(BaseModel):
    """POST /v2/repository/index"""

    model_config = ConfigDict(extra="forbid", strict=True)
    ready: bool = False  # only what is loaded


@router.get("/api/ps")
async def running(service: HostServiceDep, http: HttpRequest) -> dict[str, Any]:
    """The bundles that are loaded, as Ollama lists the models in memory."""
    return {
        "models": [
            _running(service, name) for name in _permitted(service, http) if service.bundles.loaded(name)
        ]
    }


@router.get("/v2")
async def server() -> dict[str, Any]:
    """What the server is."""
    return {"name": "ptune", "version": __version__, "extensions": ["model_repository"]}


@router.get("/v2/models/{model}/ready", dependencies=[Depends(refuse_while_draining)])
async def model_ready(model: str, service: HostServiceDep, http: HttpRequest) -> dict[str, Any]:
    """Whether a model's bundle is loaded; it answers also if it is not, after a wait."""
    check_permitted(key_of(http), service.catalogue, model)
    bundle = service.catalogue.find(model).bundle
    if service.bundles.loaded(bundle) is None:
        message = f"bundle {bundle!r} is not loaded; a request for it, or {REPOSITORY}/models/{bundle}/load, loads it"
        raise RequestError(message, param="model", code="not_loaded", status=503)
    service.health.check()
    return {"name": model, "ready": True}


@router.post(f"{REPOSITORY}/index")
async def index(service: HostServiceDep, http: HttpRequest) -> list[dict[str, Any]]:
    """The bundles and their states."""
    raw = await raw_body(http, service)  # Triton's clients may send none
    asked = validated(IndexRequest, raw) if raw.strip() else IndexRequest()
    states = [
        {**_state(service, name), "version": "1", "reason": service.bundles.why_not(name)}
        for name in _permitted(service, http)
    ]
    return [state for state in states if state["state"] == "READY" or not asked.ready]


@changing.post(f"{REPOSITORY}/models/{{bundle}}/load", dependencies=[Depends(refuse_while_draining)])
async def load(bundle: str, service: HostServiceDep) -> dict[str, Any]:
    """Loads a bundle; it answers when it is loaded."""
    async with service.bundles.using(service.bundle(bundle).name):
        return _state(service, bundle)


@changing.post(f"{REPOSITORY}/models/{{bundle}}/unload")
async def unload(bundle: str, service: HostServiceDep) -> dict[str, Any]:
    """Unloads a bundle that nobody uses."""
    await service.bundles.unload(service.bundle(bundle).name)
    return _state(service, bundle)


def _permitted(service: HostService, http: HttpRequest) -> list[str]:
    """The bundles of which the key may use a model."""
    models = permitted_models(key_of(http), service.catalogue)
    return list(dict.fromkeys(service.catalogue.find(model).bundle for model in models))


def _state(service: HostService, name: str) -> dict[str, Any]:
    return {"name": name, "state": _STATES[service.bundles.table[name].state]}


def _running(service: HostService, name: str) -> dict[str, Any]:
    manifest = service.places[name].bundle.manifest
    size_bytes = service.bundles.table[name].needed_bytes
    left_s = service.bundles.idle_until_s(name)
    ends = datetime.now(UTC) + (_FAR if left_s is None else timedelta(seconds=left_s))
    return {
        "name": name + LATEST,
        "model": name + LATEST,
        "size": size_bytes,
        "size_vram": 0,
        "digest": manifest.base.hash.rpartition(":")[2][:12],
        "details": {
            "parent_model": manifest.base.source,
            "format": "onnx",
            "family": "ptune",
            "families": ["ptune"],
            "parameter_size": "",
            "quantization_level": "",
        },
        "expires_at": ends.isoformat().replace("+00:00", "Z"),
    }
