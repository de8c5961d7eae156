"""/v1/adapters and /v1/aliases: adapters come, go, and change places while the server runs. vLLM's two routes beside them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ptune.errors import RequestError
from ptune.formats.bundle import Alias, Canary

from .adapter_files import of_folder, staged, uploaded
from .body import body_of, media_type, raw_body, validated
from .service import TheService

router = APIRouter()

Name = Annotated[str, Field(max_length=256)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AddRequest(_Asked):
    """POST /v1/adapters, as JSON."""

    name: Name
    path: Annotated[str, Field(max_length=4096)] | None = None  # None = what `ptune add` put into the bundle
    alias: Name | None = None


class CanaryShare(_Asked):
    """A second adapter, and its share of the requests."""

    name: Name
    share: float = Field(gt=0, lt=1)


class AliasRequest(_Asked):
    """POST /v1/adapters/{name}/alias"""

    alias: Name
    canary: CanaryShare | None = None


class LoadRequest(BaseModel):
    """vLLM's POST /v1/load_lora_adapter"""

    lora_name: Name
    lora_path: Annotated[str, Field(max_length=4096)]


class UnloadRequest(BaseModel):
    """vLLM's POST /v1/unload_lora_adapter"""

    lora_name: Name


@router.get("/v1/adapters")
async def adapters(service: TheService) -> dict[str, Any]:
    """All adapters of the bundle, in memory or not."""
    return {"object": "list", "data": await asyncio.to_thread(service.store.cards)}


@router.post("/v1/adapters")
async def add(http: Request, service: TheService) -> JSONResponse:
    """Adds an adapter: a form with its files, or JSON that says where they lie. It is served, unmeasured, at once."""
    if media_type(http) == "multipart/form-data":
        files, fields = await uploaded(http, service.settings.max_adapter_bytes)
        asked = _of_form(fields)

        def work() -> None:
            service.store.check_name(asked.name)
            with staged(files, asked.name, service.settings.max_adapter_bytes) as folder:
                service.store.add(folder, asked.name, asked.alias)

        await asyncio.to_thread(work)
        return await _card(service, asked.name)
    if media_type(http) != "application/json":
        raise RequestError(
            "send `Content-Type: multipart/form-data` with the files, or `application/json`",
            code="unsupported_media_type",
            status=415,
        )
    asked = validated(AddRequest, await raw_body(http, service))
    if asked.path is None:
        await asyncio.to_thread(service.store.reload, asked.name)
        if asked.alias is not None:
            await asyncio.to_thread(service.store.point, asked.alias, asked.name, None)
    else:
        await asyncio.to_thread(_add_folder, service, asked.name, asked.path, asked.alias)
    return await _card(service, asked.name)


@router.delete("/v1/adapters/{name}")
async def delete(name: str, service: TheService) -> dict[str, Any]:
    """Takes an adapter out of the bundle; its running requests finish."""
    await asyncio.to_thread(service.store.remove, name)
    return {"object": "adapter", "name": name, "deleted": True}


@router.post("/v1/adapters/{name}/alias")
async def point(
    name: str, body: Annotated[AliasRequest, Depends(body_of(AliasRequest))], service: TheService
) -> dict[str, Any]:
    """Lets an alias stand for an adapter, and for a share of the requests for another."""
    canary = None if body.canary is None else Canary(name=body.canary.name, share=body.canary.share)
    said = await asyncio.to_thread(service.store.point, body.alias, name, canary)
    return _alias_card(body.alias, said)


@router.get("/v1/aliases")
async def aliases(service: TheService) -> dict[str, Any]:
    """All aliases."""
    said = service.store.aliases()
    return {"object": "list", "data": [_alias_card(alias, one) for alias, one in said.items()]}


@router.post("/v1/aliases/{alias}/rollback")
async def roll_back(alias: str, service: TheService) -> dict[str, Any]:
    """Lets an alias stand for what it stood for before."""
    return _alias_card(alias, await asyncio.to_thread(service.store.roll_back, alias))


@router.delete("/v1/aliases/{alias}")
async def forget_alias(alias: str, service: TheService) -> dict[str, Any]:
    """Forgets an alias; the adapters stay."""
    await asyncio.to_thread(service.store.forget_alias, alias)
    return {"object": "alias", "alias": alias, "deleted": True}


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(
    body: Annotated[LoadRequest, Depends(body_of(LoadRequest))], service: TheService
) -> Response:
    """As POST /v1/adapters with a path."""
    await asyncio.to_thread(_add_folder, service, body.lora_name, body.lora_path, None)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(
    body: Annotated[UnloadRequest, Depends(body_of(UnloadRequest))], service: TheService
) -> Response:
    """As DELETE /v1/adapters/{name}."""
    await asyncio.to_thread(service.store.remove, body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _add_folder(service: TheService, name: str, path: str, alias: str | None) -> None:
    settings = service.settings
    service.store.check_name(name)
    with of_folder(settings.adapter_root, path, name, settings.max_adapter_bytes) as folder:
        service.store.add(folder, name, alias)


def _of_form(fields: dict[str, str]) -> AddRequest:
    if unknown := sorted(fields.keys() - {"name", "alias"}):
        raise RequestError(
            f"{unknown[0][:80]}: no such field; there are name and alias", code="invalid_value"
        )
    if "name" not in fields:
        raise RequestError("name: the adapter's name is missing", param="name", code="invalid_value")
    return AddRequest.model_construct(name=fields["name"], path=None, alias=fields.get("alias"))


async def _card(service: TheService, name: str) -> JSONResponse:
    return JSONResponse(await asyncio.to_thread(service.store.card, name))


def _alias_card(alias: str, said: Alias) -> dict[str, Any]:
    return {"object": "alias", "alias": alias, **said.model_dump(mode="json")}
