"""From a request's `model` to the adapter that answers it, if the request's key may use that adapter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from fastapi import Request

from ptune.errors import RequestError

from ..access.keys import Key
from ..http.context import context_of, key_of
from ..rollout.waiting import Judged
from .aliases import NO_CALLER

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

    from ..catalogue import ModelListing
    from ..service import BundleService, EncoderService, GenerationService


class AdapterRequest(Protocol):
    """A body that names an adapter."""

    @property
    def model(self) -> str: ...

    @property
    def user(self) -> str | None: ...


def permitted_models(key: Key, catalogue: ModelListing) -> list[str]:
    """The adapters and aliases that a key may use."""
    return [name for name in (*catalogue.names(), *catalogue.aliases()) if key.may_use(name)]


def check_permitted(key: Key, catalogue: ModelListing, model: str) -> None:
    """Raises: RequestError(404) if the key may not use the model, or a part of a sum, worded as for a model that does not exist."""
    if key.adapters is None:
        return
    served = permitted_models(key, catalogue)
    if not {*catalogue.parts(model)} <= {*served}:
        message = f"no model {model[:80]!r} here; served: {', '.join(served) or 'none'}"
        raise RequestError(message, param="model", code="model_not_found", status=404)


def resolve_adapter(
    http: Request, service: GenerationService, model: str, caller: str | None = NO_CALLER
) -> str:
    """The adapter that answers a request. The response names it, even if it is an error.

    caller: selects the adapter of an alias with a canary; None = a different one for each request.
    Raises: RequestError: 404; 403 if the adapter is not measured and must be.
    """
    check_permitted(key_of(http), service.catalogue, model)
    context = context_of(http)
    adapter = service.catalogue.adapter_for(model, context.request_id if caller is None else caller)
    context.asked_for, context.answered_by = model, service.catalogue.answered_by(adapter)
    if caller != NO_CALLER:
        _await_feedback(http, service, model, adapter)
    return adapter


def resolve_encoder_adapter(
    http: Request, service: EncoderService, body: AdapterRequest, endpoint: str
) -> AdapterRecord:
    """The adapter that answers a request. The response names it, even if it is an error.

    Raises: RequestError: 404; 400 if its task has another endpoint; 403 if it is not measured and must be.
    """
    check_permitted(key_of(http), service.catalogue, body.model)
    context = context_of(http)
    record = service.catalogue.record_for(body.model, endpoint, body.user or context.request_id)
    context.asked_for, context.answered_by = body.model, service.catalogue.answered_by(record.name)
    _await_feedback(http, service, body.model, record.name)
    return record


def _await_feedback(http: Request, service: BundleService, model: str, adapter: str) -> None:
    """Remembers an answer in whose alias's trial a score counts."""
    alias = service.catalogue.own_name(model)
    if (trial := service.trials.of(alias)) is not None and trial.users is not None:
        context = context_of(http)
        awaited = service.waiting.add(context.request_id, Judged(alias, adapter, key_of(http).name))
        context.awaited, context.unanswered = awaited, partial(service.waiting.forget, awaited)
