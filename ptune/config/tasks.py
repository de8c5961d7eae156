"""The table of tasks: one row says where everything lies that belongs to one task.

Columns of code are "module:name" and are imported when they are used: the table knows no layer above this one, and
reading a recipe stays light. A new task is a folder in `ptune/tasks/` and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ptune.config.task_spec import TaskSpec
from ptune.errors import FormatError
from ptune.formats.task_names import (
    CHAT,
    FEATURE_EXTRACTION,
    IMAGE_CLASSIFICATION,
    SENTENCE_SIMILARITY,
    TEXT_CLASSIFICATION,
    TEXT_GENERATION,
    TEXT_RANKING,
    TOKEN_CLASSIFICATION,
    TRANSLATION,
)

Kind: TypeAlias = Literal["decoder", "encoder"]


@dataclass(frozen=True)
class Task:
    """A row. Functions are given here with what they take."""

    spec: str
    """A `TaskSpec`: the task in a recipe, whose class name is the `kind` in YAML and the subcommand of the command line."""
    name: str
    """The task in an adapter and in a bundle; two tasks may have the same, whose adapters are used alike."""
    hub: str
    """The pipeline tag of a run's model card."""
    kind: Kind
    """The kind of model; an encoder-decoder counts as the decoder that would stand in its place."""
    work: str
    """(recipe, run, accelerator, command) -> `ptune.training.work.Work`: the training side."""
    doctor: str
    """(recipe) -> `ptune.doctor.examined.Examined`: what is wrong with the recipe's data."""
    evaluate: str
    """(run, *, data, bundle, adapter, require, threads) -> evaluation.json, written into the run."""
    evaluate_bundle: str = ""
    """(folder, out, *, data, adapter, require, threads) -> the same of an adapter in a bundle; empty: only its run is judged."""
    held_out: str = ""
    """(run, data) -> `ptune.data.held_out.Held`: the inputs at which an encoder's export is proved."""
    endpoints: tuple[str, ...] = ()
    """Paths at which a server answers for its adapters; the first is the one that /v1/models names."""
    routers: tuple[str, ...] = ()
    """The routers of these endpoints."""
    tab: str = ""
    """The page's tab that begins with its adapters."""

    @property
    def recipe_name(self) -> str:
        """What a recipe calls the task: the class name of its spec."""
        return self.spec.rpartition(":")[2]


CLASSIFICATION = "ptune.evaluation.classification"
RETRIEVAL = "ptune.evaluation.retrieval"

TASKS: tuple[Task, ...] = (
    Task(
        spec="ptune.config.chat:Chat",
        name=CHAT,
        hub=TEXT_GENERATION,
        kind="decoder",
        work="ptune.tasks.chat.work:prepare",
        doctor="ptune.tasks.chat.doctor:examine",
        evaluate="ptune.evaluation.evaluate:evaluate_run",
        endpoints=("/v1/chat/completions", "/v1/completions"),
        routers=("ptune_serve.chat:router", "ptune_serve.completions:router", "ptune_serve.tokens:router"),
        tab="Chat",
    ),
    Task(
        spec="ptune.config.classification:TextClassification",
        name=TEXT_CLASSIFICATION,
        hub=TEXT_CLASSIFICATION,
        kind="encoder",
        work="ptune.tasks.classification.text:prepare",
        doctor="ptune.tasks.classification.doctor:examine",
        evaluate=f"{CLASSIFICATION}.evaluate:evaluate_run",
        evaluate_bundle=f"{CLASSIFICATION}.evaluate_bundle:evaluate_bundle",
        held_out=f"{CLASSIFICATION}.held_out:of_run",
        endpoints=("/v1/classify",),
        routers=("ptune_serve.classify:router",),
        tab="Text",
    ),
    Task(
        spec="ptune.config.classification:TokenClassification",
        name=TOKEN_CLASSIFICATION,
        hub=TOKEN_CLASSIFICATION,
        kind="encoder",
        work="ptune.tasks.classification.text:prepare",
        doctor="ptune.tasks.classification.doctor:examine",
        evaluate=f"{CLASSIFICATION}.evaluate:evaluate_run",
        evaluate_bundle=f"{CLASSIFICATION}.evaluate_bundle:evaluate_bundle",
        held_out=f"{CLASSIFICATION}.held_out:of_run",
        endpoints=("/v1/tag",),
        routers=("ptune_serve.tag:router",),
        tab="Entities",
    ),
    Task(
        spec="ptune.config.classification:ImageClassification",
        name=IMAGE_CLASSIFICATION,
        hub=IMAGE_CLASSIFICATION,
        kind="encoder",
        work="ptune.tasks.classification.images:prepare",
        doctor="ptune.tasks.classification.image_doctor:examine",
        evaluate=f"{CLASSIFICATION}.evaluate:evaluate_run",
        evaluate_bundle=f"{CLASSIFICATION}.evaluate_bundle:evaluate_bundle",
        held_out=f"{CLASSIFICATION}.held_out:of_run",
        endpoints=("/v1/classify",),
        routers=("ptune_serve.classify:router",),
        tab="Image",
    ),
    Task(
        spec="ptune.config.retrieval:Embedding",
        name=FEATURE_EXTRACTION,
        hub=SENTENCE_SIMILARITY,
        kind="encoder",
        work="ptune.tasks.retrieval.embedding:prepare",
        doctor="ptune.tasks.retrieval.doctor:examine",
        evaluate=f"{RETRIEVAL}.evaluate:evaluate_run",
        evaluate_bundle=f"{RETRIEVAL}.evaluate_bundle:evaluate_bundle",
        held_out=f"{RETRIEVAL}.held_out:of_run",
        endpoints=("/v1/embeddings", "/v1/rerank"),
        routers=("ptune_serve.embeddings:router", "ptune_serve.rerank:router"),
        tab="Rank",
    ),
    Task(
        spec="ptune.config.retrieval:Reranking",
        name=TEXT_RANKING,
        hub=TEXT_RANKING,
        kind="encoder",
        work="ptune.tasks.retrieval.reranking:prepare",
        doctor="ptune.tasks.retrieval.doctor:examine",
        evaluate=f"{RETRIEVAL}.evaluate:evaluate_run",
        evaluate_bundle=f"{RETRIEVAL}.evaluate_bundle:evaluate_bundle",
        held_out=f"{RETRIEVAL}.held_out:of_run",
        endpoints=("/v1/rerank",),
        routers=("ptune_serve.rerank:router",),
        tab="Rank",
    ),
    Task(
        spec="ptune.config.recommendation:Recommendation",
        name=FEATURE_EXTRACTION,
        hub=SENTENCE_SIMILARITY,
        kind="encoder",
        work="ptune.tasks.recommendation.train:prepare",
        doctor="ptune.tasks.recommendation.doctor:examine",
        evaluate=f"{RETRIEVAL}.recommend:evaluate_run",
        evaluate_bundle=f"{RETRIEVAL}.evaluate_bundle:evaluate_bundle",
        held_out=f"{RETRIEVAL}.held_out:of_run",
        endpoints=("/v1/embeddings", "/v1/rerank", "/v1/recommend"),
        routers=(
            "ptune_serve.embeddings:router",
            "ptune_serve.rerank:router",
            "ptune_serve.recommend:router",
        ),
        tab="Recommend",
    ),
    Task(
        spec="ptune.config.translation:Translation",
        name=TRANSLATION,
        hub=TRANSLATION,
        kind="decoder",
        work="ptune.tasks.translation.work:prepare",
        doctor="ptune.tasks.translation.doctor:examine",
        evaluate="ptune.evaluation.translation.evaluate:evaluate_run",
        evaluate_bundle="ptune.evaluation.translation.served:evaluate_bundle",
        endpoints=("/v1/translate",),
        routers=("ptune_serve.translate:router",),
        tab="Translate",
    ),
)
"""In the order of the command line; the first is what a recipe means that names none."""


def code(place: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


SPECS: tuple[type[TaskSpec], ...] = tuple(code(task.spec) for task in TASKS)
"""What a recipe's `task` may be."""

if TYPE_CHECKING:
    AnyTask: TypeAlias = TaskSpec
else:
    from typing import Union

    AnyTask = Union[SPECS]  # noqa: UP007 - made of the table, for pydantic and the command line


def task_of(spec: TaskSpec) -> Task:
    """The row of a recipe's task."""
    return next(task for task in TASKS if task.recipe_name == type(spec).__name__)


def tasks_of(adapter: str) -> tuple[Task, ...]:
    """The rows whose adapters are called so, at least one. Raises: FormatError where no task has the name."""
    found = tuple(task for task in TASKS if task.name == adapter)
    if not found:
        known = ", ".join(dict.fromkeys(task.name for task in TASKS))
        raise FormatError(
            f"the adapter is for the task {adapter!r}, which this ptune does not have; it has {known}"
        )
    return found


def endpoints_of(adapter: str) -> tuple[str, ...]:
    """The paths at which adapters called so are asked, the one to name first."""
    return tuple(dict.fromkeys(path for task in tasks_of(adapter) for path in task.endpoints))


def routers_of(*tasks: Task) -> tuple[str, ...]:
    """The routers that a server of these tasks needs, each once."""
    return tuple(dict.fromkeys(router for task in tasks for router in task.routers))


def of_kind(kind: Kind) -> tuple[Task, ...]:
    """The tasks of one kind of model."""
    return tuple(task for task in TASKS if task.kind == kind)


def tab_names(tab: str) -> tuple[str, ...]:
    """What adapters are called that one of the page's tabs is for."""
    return tuple(dict.fromkeys(task.name for task in TASKS if task.tab == tab))
