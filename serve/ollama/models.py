"""GET /api/tags and /api/version, POST /api/show: what Ollama's clients ask about the models of a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune.formats.task_names import CHAT, FEATURE_EXTRACTION
from ptune.version import __version__

from ..adapters.access import check_permitted, permitted_models
from ..http.context import key_of
from ..http.dependencies import ServiceDep
from ..service import ChatService, Service
from .body import ollama_body_of
from .schemas import LATEST, OllamaShowRequest

SPOKEN = "0.12.11"
"""The version of Ollama whose API this is: clients ask for it to know what a server understands."""

router = APIRouter()


@router.get("/api/version")
async def version() -> dict[str, str]:
    """The version of Ollama's API, and that of ptune."""
    return {"version": SPOKEN, "ptune": __version__}


@router.get("/api/tags")
async def tags(service: ServiceDep, http: HttpRequest) -> dict[str, Any]:
    """The models that the key may use."""
    names = permitted_models(key_of(http), service.catalogue)
    return {
        "models": [{"name": name + LATEST, "model": name + LATEST, **_facts(service, name)} for name in names]
    }


@router.post("/api/show")
async def show(
    body: Annotated[OllamaShowRequest, Depends(ollama_body_of(OllamaShowRequest))],
    service: ServiceDep,
    http: HttpRequest,
) -> dict[str, Any]:
    """One model: its template, its context, and what it can do."""
    check_permitted(key_of(http), service.catalogue, body.adapter)
    card = service.catalogue.card(service.catalogue.resolve(body.adapter))
    facts = _facts(service, body.adapter)
    answering = service.answering(body.adapter)
    adapter = answering.catalogue.resolve(body.adapter)
    return {
        "modelfile": "",
        "parameters": "",
        "template": _template(answering, adapter),
        "details": facts["details"],
        "model_info": {
            "general.architecture": "ptune",
            "general.basename": card["source"],
            "ptune.context_length": card["max_model_len"],
        },
        "capabilities": _capabilities(answering, adapter, card["task"]),
        "modified_at": facts["modified_at"],
    }


def _facts(service: Service, model: str) -> dict[str, Any]:
    """What /api/tags and /api/show both say. The size is not counted: what a model takes, it shares with its base."""
    card = service.catalogue.card(service.catalogue.resolve(model))
    return {
        "modified_at": datetime.fromtimestamp(card["created"], UTC).isoformat().replace("+00:00", "Z"),
        "size": 0,
        "digest": card["fingerprint"].rpartition("@")[2],
        "details": {
            "parent_model": card["parent"] or "",
            "format": "onnx",
            "family": "ptune",
            "families": ["ptune"],
            "parameter_size": "",
            "quantization_level": "",
        },
    }


def _template(service: Service, adapter: str) -> str:
    if not isinstance(service, ChatService):
        return ""
    template = service.model.codec_for(adapter).template
    return "" if template is None else template.source


def _capabilities(service: Service, adapter: str, task: str) -> list[str]:
    if task == FEATURE_EXTRACTION:
        return ["embedding"]
    if task != CHAT:
        return []
    if not isinstance(service, ChatService):  # of a bundle that is not loaded
        return ["completion"]
    codec = service.model.codec_for(adapter)
    has = {
        "vision": codec.vision is not None,
        "tools": codec.tool_format is not None,
        "thinking": codec.reasoning_format is not None,
    }
    return ["completion", *(name for name in has if has[name])]
