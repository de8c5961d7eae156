"""What all endpoints share: the model, who may ask, what is running."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import Depends, Request

from ptune.errors import RequestError

from .adapter_store import AdapterStore
from .auth import ApiKeys
from .catalogue import TRANSLATE
from .errors import shutting_down
from .health import Health
from .keys import Scope
from .usage import admit

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

    from .catalogue import Catalogue
    from .encoder_catalogue import EncoderCatalogue
    from .encoder_metrics import EncoderMetrics
    from .metrics import Metrics, SequenceMetrics
    from .response_metrics import Responses


@dataclass(frozen=True)
class Settings:
    """What an operator may choose."""

    api_keys: ApiKeys = field(default_factory=ApiKeys)
    max_body_bytes: int = 4 * 2**20
    max_images_bytes: int = 32 * 2**20  # of a body that may hold images
    hosts: frozenset[str] = frozenset()  # names in the Host header that are answered; none = all
    adapters_api: bool = False  # whether adapters may be added and removed over HTTP
    adapter_root: Path | None = None  # folders below it may be named as adapters
    max_adapter_bytes: int = 2**30  # of one that is added over HTTP
    max_adapters: int = 1000
    require_parity: bool = False  # whether an adapter that was not measured is refused
    step_limit_s: float = 300  # a step of the engine that takes longer is stuck
    drain_s: float = 30  # how long running answers may go on once the server was told to stop


class Running(Protocol):
    """Work for one HTTP call."""

    def close(self) -> None:
        """Gives up what is not done yet."""


class Listing(Protocol):
    """Which models are served."""

    def names(self) -> list[str]:
        """As requests name them."""

    def aliases(self) -> list[str]:
        """Names that stand for one of those."""

    def resolve(self, model: str) -> str:
        """The adapter that `model` means. Raises: RequestError(404)."""

    def card(self, name: str) -> dict[str, Any]:
        """An entry of /v1/models."""


class Exposition(Protocol):
    """Metrics."""

    responses: Responses

    def exposition(self) -> bytes:
        """Prometheus' text format."""


@dataclass(kw_only=True)
class Service:
    """One bundle being served."""

    settings: Settings
    catalogue: Listing
    metrics: Exposition
    store: AdapterStore
    health: Health
    running: set[Running] = field(default_factory=set)  # until their last byte is sent
    draining: bool = False

    @property
    def max_body_bytes(self) -> int:
        return self.settings.max_body_bytes

    @property
    def hint(self) -> tuple[str, dict[str, Any]]:
        """Path and body of a request to try the server with."""
        raise NotImplementedError


@dataclass(kw_only=True)
class WritingService(Service):
    """A model that writes text, with and without an adapter."""

    catalogue: Catalogue
    metrics: SequenceMetrics


@dataclass(kw_only=True)
class ChatService(WritingService):
    """A causal language model."""

    model: ChatModel
    metrics: Metrics

    @property
    def hint(self) -> tuple[str, dict[str, Any]]:
        messages = [{"role": "user", "content": "Hello!"}]
        return "/v1/chat/completions", {"model": self.catalogue.names()[-1], "messages": messages}


@dataclass(kw_only=True)
class Seq2SeqService(WritingService):
    """An encoder-decoder, whose base and adapters translate."""

    model: Seq2SeqModel

    @property
    def hint(self) -> tuple[str, dict[str, Any]]:
        return TRANSLATE, {"model": self.catalogue.names()[-1], "text": "Hello!"}


@dataclass(kw_only=True)
class EncoderService(Service):
    """An encoder, whose adapters classify and tag."""

    model: EncoderModel
    catalogue: EncoderCatalogue
    metrics: EncoderMetrics

    @property
    def takes_images(self) -> bool:
        return self.model.engine.signature.modality == "image"

    @property
    def max_body_bytes(self) -> int:
        return self.settings.max_images_bytes if self.takes_images else self.settings.max_body_bytes

    @property
    def hint(self) -> tuple[str, dict[str, Any]]:
        return self.catalogue.hint()


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]
TheChat = Annotated[ChatService, Depends(service_of)]
TheWriter = Annotated[WritingService, Depends(service_of)]
TheEncoder = Annotated[EncoderService, Depends(service_of)]


def rightly_addressed(request: Request, service: TheService) -> None:
    """Raises: RequestError(400) for a Host that is not this server's.

    A web page can have its own name resolve to 127.0.0.1 (DNS rebinding), and then the browser lets it read answers.
    """
    host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
    if service.settings.hosts and host not in service.settings.hosts:
        known = ", ".join(sorted(service.settings.hosts))
        message = f"this server is not called {host[:80]!r}, but {known}; with API keys any name will do"
        raise RequestError(message, code="unknown_host")


async def authorized(request: Request, service: TheService) -> None:
    """Lets those in who may ask a model. Raises: RequestError (401, 403)."""
    _let_in(request, service, "infer")


async def administering(request: Request, service: TheService) -> None:
    """Lets those in who may change what is served. Raises: RequestError (401, 403)."""
    _let_in(request, service, "admin")


async def scraping(request: Request, service: TheService) -> None:
    """Lets those in who may see everybody's figures. Raises: RequestError (401, 403)."""
    _let_in(request, service, "metrics", "admin")


def _let_in(request: Request, service: Service, *scopes: Scope) -> None:
    request.state.key = service.settings.api_keys.permit(request.headers.get("authorization"), *scopes)


async def admitted(request: Request, service: TheService) -> None:
    """Goes by the limits of the request's key. Raises: LimitReachedError."""
    admit(request, service)


def accepting(service: TheService) -> None:
    """Raises: RequestError(503) once the server has been told to stop."""
    if service.draining:
        raise shutting_down()
