"""What all endpoints of an app share: the settings, the model, its catalogue and metrics, the calls in progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ptune.config.tasks import tasks_of

from .access.audit import AuditLog
from .access.auth import ApiKeys
from .access.keys import Key
from .adapters.store import AdapterStore
from .catalogue import ModelListing
from .health import Health
from .responses.store import ResponseStore
from .rollout.metrics import TrialMetrics
from .rollout.scoring import Scoring
from .rollout.trials import Trials
from .rollout.waiting import Waiting

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

    from .batches.runner import BatchRunner
    from .catalogue import Catalogue
    from .encoders.catalogue import EncoderCatalogue
    from .files.store import FileStore, ServedFiles
    from .http.telemetry import Telemetry
    from .metrics.encoder import EncoderMetrics
    from .metrics.registry import Metrics, SequenceMetrics
    from .metrics.responses import Responses
    from .receipts.store import Receipts


def _as_it_is(key: Key) -> Key:
    return key


@dataclass(frozen=True)
class Settings:
    """Options of the operator."""

    api_keys: ApiKeys = field(default_factory=ApiKeys)
    connections_per_address: int | None = None  # most of one client's address; None = any number
    max_body_bytes: int = 4 * 2**20
    max_images_bytes: int = 32 * 2**20  # limit for bodies that may hold images
    hosts: frozenset[str] = frozenset()  # accepted in the Host header; empty = any
    adapters_api: bool = False  # adapters can be added and removed over HTTP
    adapter_root: Path | None = None  # adapters may be added from folders below it
    max_adapter_bytes: int = 2**30  # of an adapter added over HTTP
    max_adapters: int = 1000
    judges_canaries: bool = True  # which only one server can
    require_parity: bool = False  # refuse adapters that were not measured
    thinking_token_budget: int | None = None  # most tokens of thought, where neither request nor adapter says
    files: FileStore | None = None  # of batches; None = no files, and so no batches
    batch_lines: int = 8  # most requests of batches that are answered at once
    max_stored_bytes: int = 256 * 2**20  # of responses that are kept to be gone on from; 0 = none
    audit: AuditLog | None = None  # of what administrators do; None = it is not kept
    receipts: Receipts | None = None  # of a chat model's answers; None = none are kept
    telemetry: Telemetry | None = None  # OpenTelemetry; None = nothing is sent
    responses: ResponseStore | None = None  # where several bundles share one; None = the app's own
    key_here: Callable[[Key], Key] = _as_it_is  # a key, with the names that models have here
    in_use: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext  # keeps the model loaded for a block
    step_limit_s: float = 300  # an engine step that takes longer counts as stuck
    drain_s: float = 30  # how long answers in progress may continue after SIGTERM


class Cancellable(Protocol):
    """Work in progress for one HTTP call."""

    def close(self) -> None:
        """Cancels what has not finished."""


class ExposedMetrics(Protocol):
    """The metrics of a server."""

    registry: CollectorRegistry
    responses: Responses

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""


@dataclass(kw_only=True)
class Service:
    """What is served."""

    settings: Settings
    catalogue: ModelListing
    metrics: ExposedMetrics
    health: Health
    files: ServedFiles | None = None
    batches: BatchRunner | None = None  # where files are kept
    running: set[Cancellable] = field(default_factory=set)  # each until its last byte is sent
    draining: bool = False

    async def judged(self, answer_id: str, key: str, score: float) -> bool:
        """Counts a score for an answer that this key got; False where no canary's trial waits for it."""
        return False

    @property
    def max_body_bytes(self) -> int:
        return self.settings.max_body_bytes

    def answering(self, model: str) -> Service:
        """The service whose model answers as `model`, as far as it is loaded."""
        return self

    @property
    def hint(self) -> tuple[str, dict[str, Any]]:
        """Path and body of an example request, from the row of the newest adapter's task."""
        names = self.catalogue.names()
        if not names:
            return "/v1/models", {}
        task = tasks_of(self.catalogue.card(names[-1])["task"])[0]
        if not task.endpoints:
            return "/v1/models", {}
        return task.endpoints[0], {"model": names[-1], **task.example}


@dataclass(kw_only=True)
class BundleService(Service):
    """A bundle."""

    store: AdapterStore
    waiting: Waiting = field(default_factory=Waiting)  # for feedback
    trials: Trials = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.trials = Trials(self.store, self.scoring, judges=settings.judges_canaries, audit=settings.audit)
        self.metrics.registry.register(TrialMetrics(self.trials))

    @property
    def scoring(self) -> Scoring | None:
        """Computes losses of held-out texts; None where the kind of model has none."""
        return None

    async def judged(self, answer_id: str, key: str, score: float) -> bool:
        answer = self.waiting.take(answer_id, key)
        return answer is not None and await self.trials.score(answer.alias, answer.adapter, score)


@dataclass(kw_only=True)
class GenerationService(BundleService):
    """A model that generates text, with an adapter or without."""

    catalogue: Catalogue
    metrics: SequenceMetrics


@dataclass(kw_only=True)
class ChatService(GenerationService):
    """A causal language model."""

    model: ChatModel
    metrics: Metrics
    responses: ResponseStore

    @property
    def max_body_bytes(self) -> int:
        sees = self.model.engine.tower is not None
        return self.settings.max_images_bytes if sees else self.settings.max_body_bytes

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.model, self.settings.adapter_root, self.settings.in_use)


@dataclass(kw_only=True)
class Seq2SeqService(GenerationService):
    """An encoder-decoder; its base and adapters translate."""

    model: Seq2SeqModel


@dataclass(kw_only=True)
class EncoderService(BundleService):
    """An encoder; its adapters classify, tag, embed, rank or recommend."""

    model: EncoderModel
    catalogue: EncoderCatalogue
    metrics: EncoderMetrics

    @property
    def accepts_images(self) -> bool:
        return self.model.engine.signature.modality == "image"

    @property
    def max_body_bytes(self) -> int:
        return self.settings.max_images_bytes if self.accepts_images else self.settings.max_body_bytes
