"""The table of tasks: one row names everything that belongs to a task.

Code is named as "module:name" and imported on use (`ptune.kinds.imported`), so this module depends on no layer above it
and reading a recipe stays light. A new task is a folder in `ptune/tasks/` and a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from ptune.kinds import imported

Kind: TypeAlias = Literal["decoder", "encoder"]


@dataclass(frozen=True)
class Task:
    """One row. Functions are listed with their arguments and result."""

    spec: str
    """The `TaskSpec` of a recipe; its class name is the `kind` in YAML and the subcommand of the command line."""
    name: str
    """The task as adapters and bundles call it. Tasks whose adapters are used alike share a name."""
    hub: str
    """The pipeline tag of a run's model card."""
    kind: Kind
    """The kind of model; an encoder-decoder counts as a decoder."""
    work: str
    """(recipe, run, accelerator, command) -> `ptune.training.work.Work`: the training side."""
    doctor: str
    """(recipe) -> `ptune.doctor.examined.Examined`: the findings on the recipe's data."""
    evaluate: str
    """(run, `ptune.evaluation.options.EvaluationOptions`) -> evaluation.json, written into the run."""
    evaluate_bundle: str = ""
    """(folder, out, options) -> evaluation of an adapter in a bundle; empty: only runs can be evaluated."""
    held_out: str = ""
    """(run, data, columns) -> `ptune.data.held_out.Held`: the inputs on which an encoder's export is proved."""
    ask: str = ""
    """(run) -> `ptune.evaluation.asking.question.Asker`: answers one input before and after training; empty: cannot."""
    asked: tuple[str, ...] = ("text",)
    """The fields of a `Question` that it needs: text, others, image."""
    endpoints: tuple[str, ...] = ()
    """Server paths that use its adapters; /v1/models names the first."""
    example: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The body of a request to the first of `endpoints`, without its model: what `ptune serve` says to try."""
    routers: tuple[str, ...] = ()
    """The routers of these endpoints."""
    tab: str = ""
    """The tab of the page that lists its adapters."""

    @property
    def recipe_name(self) -> str:
        """The task as recipes call it: the class name of its spec."""
        return self.spec.rpartition(":")[2]


CLASSIFICATION = "ptune.evaluation.classification"
RETRIEVAL = "ptune.evaluation.retrieval"
ASKING = "ptune.evaluation.asking"
_COMPARED = ("text", "others")

_CHAT = Task(
    spec="ptune.config.chat:Chat",
    name=CHAT,
    hub=TEXT_GENERATION,
    kind="decoder",
    work="ptune.tasks.chat.work:prepare",
    doctor="ptune.tasks.chat.doctor:examine",
    evaluate="ptune.evaluation.evaluate:evaluate_run",
    ask=f"{ASKING}.writing:of_run",
    endpoints=("/v1/chat/completions", "/v1/completions"),
    example={"messages": [{"role": "user", "content": "Hello!"}]},
    routers=(
        "ptune_serve.openai.chat:router",
        "ptune_serve.openai.completions:router",
        "ptune_serve.anthropic.messages:router",
        "ptune_serve.ollama.chat:router",
        "ptune_serve.responses.create:router",
        "ptune_serve.openai.tokens:router",
    ),
    tab="Chat",
)

TASKS: tuple[Task, ...] = (
    _CHAT,
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
        ask=f"{ASKING}.labelling:of_run",
        endpoints=("/v1/classify",),
        example={"input": "Hello!"},
        routers=("ptune_serve.encoders.classify:router", "ptune_serve.open_inference.infer:router"),
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
        ask=f"{ASKING}.labelling:of_run",
        endpoints=("/v1/tag",),
        example={"input": "Hello!"},
        routers=("ptune_serve.encoders.tag:router", "ptune_serve.open_inference.infer:router"),
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
        ask=f"{ASKING}.labelling:of_run",
        asked=("image",),
        endpoints=("/v1/classify",),
        example={"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]},
        routers=("ptune_serve.encoders.classify:router", "ptune_serve.open_inference.infer:router"),
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
        ask=f"{ASKING}.comparing:embeddings_of_run",
        asked=_COMPARED,
        endpoints=("/v1/embeddings", "/v1/rerank"),
        example={"input": "Hello!"},
        routers=(
            "ptune_serve.encoders.embeddings:router",
            "ptune_serve.ollama.embed:router",
            "ptune_serve.encoders.rerank:router",
            "ptune_serve.open_inference.infer:router",
        ),
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
        ask=f"{ASKING}.comparing:scores_of_run",
        asked=_COMPARED,
        endpoints=("/v1/rerank",),
        example={"query": "Hello!", "documents": ["Hi!"]},
        routers=("ptune_serve.encoders.rerank:router", "ptune_serve.open_inference.infer:router"),
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
        example={"input": "Hello!"},
        routers=(
            "ptune_serve.encoders.embeddings:router",
            "ptune_serve.ollama.embed:router",
            "ptune_serve.encoders.rerank:router",
            "ptune_serve.open_inference.infer:router",
            "ptune_serve.encoders.recommend:router",
        ),
        tab="Recommend",
    ),
    replace(_CHAT, spec="ptune.config.preference:Preference", work="ptune.tasks.preference.work:prepare"),
    replace(
        _CHAT,
        spec="ptune.config.reinforcement:Reinforcement",
        work="ptune.tasks.reinforcement.work:prepare",
        doctor="ptune.tasks.reinforcement.doctor:examine",
        evaluate="ptune.evaluation.reinforcement.evaluate:evaluate_run",
    ),
    replace(
        _CHAT,
        spec="ptune.config.unpaired_preference:UnpairedPreference",
        work="ptune.tasks.unpaired_preference.work:prepare",
    ),
    Task(
        spec="ptune.config.reward_model:RewardModel",
        name=TEXT_RANKING,
        hub=TEXT_RANKING,
        kind="encoder",
        work="ptune.tasks.reward_model.work:prepare",
        doctor="ptune.tasks.reward_model.doctor:examine",
        evaluate="ptune.evaluation.reward_model.evaluate:evaluate_run",
        evaluate_bundle=f"{RETRIEVAL}.evaluate_bundle:evaluate_bundle",
        held_out="ptune.evaluation.reward_model.held_out:of_run",
        ask=f"{ASKING}.comparing:scores_of_run",
        asked=_COMPARED,
        endpoints=("/v1/rerank",),
        example={"query": "Hello!", "documents": ["Hi!"]},
        routers=("ptune_serve.encoders.rerank:router", "ptune_serve.open_inference.infer:router"),
        tab="Rank",
    ),
    Task(
        spec="ptune.config.process_reward:ProcessReward",
        name=TOKEN_CLASSIFICATION,
        hub=TOKEN_CLASSIFICATION,
        kind="encoder",
        work="ptune.tasks.classification.text:prepare",
        doctor="ptune.tasks.classification.doctor:examine",
        evaluate="ptune.evaluation.process_reward.evaluate:evaluate_run",
        evaluate_bundle=f"{CLASSIFICATION}.evaluate_bundle:evaluate_bundle",
        held_out=f"{CLASSIFICATION}.held_out:of_run",
        endpoints=("/v1/tag",),
        example={"input": [["What is 3 + 4?", "3 + 4 = 7"]]},
        routers=("ptune_serve.encoders.tag:router", "ptune_serve.open_inference.infer:router"),
        tab="Entities",
    ),
    replace(
        _CHAT, spec="ptune.config.distillation:Distillation", work="ptune.tasks.distillation.work:prepare"
    ),
    replace(
        _CHAT,
        spec="ptune.config.on_policy_distillation:OnPolicyDistillation",
        work="ptune.tasks.on_policy_distillation.work:prepare",
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
        ask=f"{ASKING}.translating:of_run",
        endpoints=("/v1/translate",),
        example={"text": "Hello!"},
        routers=("ptune_serve.translation.translate:router",),
        tab="Translate",
    ),
)
"""In the order of the command line; the first is a recipe's default."""


SPECS: tuple[type[TaskSpec], ...] = tuple(imported(task.spec) for task in TASKS)
"""The possible types of a recipe's `task`."""

if TYPE_CHECKING:
    AnyTask: TypeAlias = TaskSpec
else:
    from typing import Union

    AnyTask = Union[SPECS]  # noqa: UP007 - built from the table, for pydantic and the command line


def task_of(spec: TaskSpec) -> Task:
    """The table row of a recipe's task."""
    return next(task for task in TASKS if task.recipe_name == type(spec).__name__)


def tasks_of(adapter: str) -> tuple[Task, ...]:
    """The rows whose `name` is `adapter`, at least one. Raises: FormatError if no task has that name."""
    tasks = tuple(task for task in TASKS if task.name == adapter)
    if not tasks:
        known = ", ".join(dict.fromkeys(task.name for task in TASKS))
        raise FormatError(
            f"the adapter is for the task {adapter!r}, which this ptune does not have; it has {known}"
        )
    return tasks


def endpoints_of(adapter: str) -> tuple[str, ...]:
    """The server paths of adapters for a task; the preferred one first."""
    return tuple(dict.fromkeys(path for task in tasks_of(adapter) for path in task.endpoints))


def routers_of(*tasks: Task) -> tuple[str, ...]:
    """The routers that a server needs for these tasks, without duplicates."""
    return tuple(dict.fromkeys(router for task in tasks for router in task.routers))


def of_kind(kind: Kind) -> tuple[Task, ...]:
    """The tasks for one kind of model."""
    return tuple(task for task in TASKS if task.kind == kind)


def tab_names(tab: str) -> tuple[str, ...]:
    """The task names of the adapters that a tab of the page lists."""
    return tuple(dict.fromkeys(task.name for task in TASKS if task.tab == tab))
