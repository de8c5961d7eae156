"""/v1/adapters and /v1/aliases: adds, removes and switches adapters while the server runs. Also vLLM's two routes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ptune.errors import RequestError
from ptune.formats.bundle import Alias, ByLoss, ByUsers, Canary

from ..catalogue import require_measured
from ..http.body import body_of, media_type, raw_body, validated
from ..http.context import context_of
from ..http.dependencies import BundleServiceDep
from ..rollout.trials import NO_LOSSES
from .files import of_folder, staged, uploaded

router = APIRouter()

Name = Annotated[str, Field(max_length=256)]


class _StrictBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AddRequest(_StrictBody):
    """POST /v1/adapters, as JSON."""

    name: Name
    path: Annotated[str, Field(max_length=4096)] | None = (
        None  # None = an adapter that `ptune add` put into the bundle
    )
    alias: Name | None = None


class UsersRule(ByUsers):
    """`decide.users`"""

    model_config = ConfigDict(extra="forbid")


class LossRule(ByLoss):
    """`decide.loss`"""

    model_config = ConfigDict(extra="forbid")


class DecideRule(_StrictBody):
    """What decides on a canary: one of the two, or whichever of both is certain first."""

    users: Annotated[UsersRule, Field(strict=False)] | None = None
    loss: Annotated[LossRule, Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> DecideRule:
        if self.users is None and self.loss is None:
            raise ValueError("say what decides: users, loss, or both")
        return self


class CanaryShare(_StrictBody):
    """A second adapter, and its share of the requests."""

    name: Name
    share: float = Field(gt=0, lt=1)
    decide: DecideRule | None = None


class AliasRequest(_StrictBody):
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
async def adapters(service: BundleServiceDep) -> dict[str, Any]:
    """All adapters of the bundle, in memory or not."""
    return {"object": "list", "data": await asyncio.to_thread(service.store.cards)}


@router.post("/v1/adapters")
async def add(http: Request, service: BundleServiceDep) -> JSONResponse:
    """Adds an adapter, from a form with its files or JSON with their path, and serves it at once, unmeasured."""
    if media_type(http) == "multipart/form-data":
        files, fields = await uploaded(http, service.settings.max_adapter_bytes)
        upload = _from_form(fields)
        _changes(http, upload.name, upload.alias)

        def store() -> None:
            service.store.check_name(upload.name)
            with staged(files, upload.name, service.settings.max_adapter_bytes) as folder:
                service.store.add(folder, upload.name, upload.alias)

        await asyncio.to_thread(store)
        return await _added(http, service, upload.name)
    if media_type(http) != "application/json":
        raise RequestError(
            "send `Content-Type: multipart/form-data` with the files, or `application/json`",
            code="unsupported_media_type",
            status=415,
        )
    body = validated(AddRequest, await raw_body(http, service))
    _changes(http, body.name, body.alias)
    if body.path is None:
        await asyncio.to_thread(service.store.reload, body.name, body.alias)
    else:
        await asyncio.to_thread(_add_folder, service, body.name, body.path, body.alias)
    return await _added(http, service, body.name)


@router.delete("/v1/adapters/{name}")
async def delete(name: str, service: BundleServiceDep) -> dict[str, Any]:
    """Removes an adapter from the bundle; its requests in progress finish."""
    await asyncio.to_thread(service.store.remove, name)
    return {"object": "adapter", "name": name, "deleted": True}


@router.post("/v1/adapters/{name}/alias")
async def point(
    http: Request,
    name: str,
    body: Annotated[AliasRequest, Depends(body_of(AliasRequest))],
    service: BundleServiceDep,
) -> dict[str, Any]:
    """Points an alias at an adapter, and a share of its requests at another (a canary)."""
    _changes(http, name, body.alias)
    canary = None if body.canary is None else Canary.model_validate(body.canary.model_dump())
    if canary is not None and canary.decide is not None:
        await asyncio.to_thread(_check_decided, service, body.alias, name, canary)
    target = await asyncio.to_thread(service.store.point, body.alias, name, canary)
    service.trials.begin(body.alias)
    return _alias_card(service, body.alias, target)


@router.get("/v1/aliases")
async def aliases(service: BundleServiceDep) -> dict[str, Any]:
    """All aliases."""
    cards = [_alias_card(service, alias, target) for alias, target in service.store.aliases().items()]
    return {"object": "list", "data": cards}


@router.post("/v1/aliases/{alias}/rollback")
async def roll_back(alias: str, service: BundleServiceDep) -> dict[str, Any]:
    """Points an alias back at its previous adapter."""
    return _alias_card(service, alias, await asyncio.to_thread(service.store.roll_back, alias))


@router.delete("/v1/aliases/{alias}")
async def forget_alias(alias: str, service: BundleServiceDep) -> dict[str, Any]:
    """Removes an alias; the adapters stay."""
    await asyncio.to_thread(service.store.forget_alias, alias)
    service.trials.of(alias)  # which ends with it
    return {"object": "alias", "alias": alias, "deleted": True}


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(
    http: Request, body: Annotated[LoadRequest, Depends(body_of(LoadRequest))], service: BundleServiceDep
) -> Response:
    """As POST /v1/adapters with a path."""
    _changes(http, body.lora_name)
    await asyncio.to_thread(_add_folder, service, body.lora_name, body.lora_path, None)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(
    http: Request, body: Annotated[UnloadRequest, Depends(body_of(UnloadRequest))], service: BundleServiceDep
) -> Response:
    """As DELETE /v1/adapters/{name}."""
    _changes(http, body.lora_name)
    await asyncio.to_thread(service.store.remove, body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _check_decided(service: BundleServiceDep, alias: str, name: str, canary: Canary) -> None:
    """Raises: RequestError where nobody here can decide on a canary; as `AdapterStore.point` and `Scoring.check`."""
    if not service.settings.judges_canaries:
        message = "a canary is judged by one server, and this is one of several replicas; leave out decide"
        raise RequestError(message, param="canary.decide", code="invalid_value")
    service.store.check_target(alias, name, canary)
    if service.settings.require_parity:
        require_measured(service.store.record(canary.name))  # once promoted it could not answer
    if canary.decide is None or canary.decide.loss is None:
        return
    if service.scoring is None:
        raise RequestError(NO_LOSSES, param="canary.decide.loss", code="invalid_value")
    service.scoring.check(canary.decide.loss, (name, canary.name))


def _add_folder(service: BundleServiceDep, name: str, path: str, alias: str | None) -> None:
    settings = service.settings
    service.store.check_name(name)
    with of_folder(settings.adapter_root, path, name, settings.max_adapter_bytes) as folder:
        service.store.add(folder, name, alias)


def _from_form(fields: dict[str, str]) -> AddRequest:
    if unknown := sorted(fields.keys() - {"name", "alias"}):
        raise RequestError(
            f"{unknown[0][:80]}: unknown field; a form has name and alias", code="invalid_value"
        )
    if "name" not in fields:
        raise RequestError("name: the adapter's name is missing", param="name", code="invalid_value")
    return AddRequest.model_construct(name=fields["name"], path=None, alias=fields.get("alias"))


def _changes(http: Request, name: str, alias: str | None = None) -> None:
    """Notes for the audit log what a request is about."""
    context_of(http).changes = {"name": name} | ({} if alias is None else {"alias": alias})


async def _added(http: Request, service: BundleServiceDep, name: str) -> JSONResponse:
    card = await asyncio.to_thread(service.store.card, name)
    context_of(http).changes = {**(context_of(http).changes or {}), "hash": card["hash"]}
    return JSONResponse(card)


def _alias_card(service: BundleServiceDep, alias: str, target: Alias) -> dict[str, Any]:
    card = {"object": "alias", "alias": alias, **target.model_dump(mode="json")}
    if target.canary is not None:
        card["canary"] = target.canary.model_dump(mode="json", exclude_none=True)
    if (trial := service.trials.of(alias)) is not None:
        card["trial"] = {kind: found.described() for kind, found in trial.evidence().items()}
    return card
