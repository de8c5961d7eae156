"""The trainings of benchmarks/choosing.py: a method, a rate and a seed, on one of two data sets that ptune ships."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CHITCHAT = Path(__file__).parent / "data" / "chat.jsonl"
SEEDS = (0, 1)
FACTORS = (1 / 3, 1.0, 3.0)
VALIDATION = 60  # rows that choose a rate

Losses = list[tuple[float, int]]
"""Of each row: the sum of its losses, and its targets."""


@dataclass(frozen=True)
class Set:
    """A data set: a recipe, and what keeps its runs short."""

    recipe: str
    steps: int
    rows: int  # in a step
    tokens: int  # of a row, at most
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A method as it is trained. lr: the middle one of its rates, by set."""

    method: Mapping[str, Any]
    lr: Mapping[str, float]
    train: Mapping[str, Any] = field(default_factory=dict)


SETS = {
    "chat": Set("chat_lora", 24, 4, 64, {"on_overlong": "truncate"}),
    "sentiment": Set("sentiment_lora", 40, 16, 64),
}


def _rates(chat: float, sentiment: float) -> dict[str, float]:
    return {"chat": chat, "sentiment": sentiment}


CHOICES = {
    "Lora": Choice({"kind": "Lora"}, _rates(1e-3, 1e-3)),
    "rsLoRA": Choice({"kind": "Lora", "rslora": True}, _rates(5e-4, 5e-4)),
    "DoRA": Choice({"kind": "Lora", "dora": True}, _rates(1e-3, 1e-3)),
    "PiSSA": Choice({"kind": "Lora", "init": "pissa"}, _rates(3e-4, 3e-4)),
    "LoRA+": Choice({"kind": "Lora"}, _rates(3e-4, 3e-4), {"lora_plus_ratio": 16.0}),
    "AdaLora": Choice({"kind": "AdaLora"}, _rates(3e-3, 3e-3)),
    "Oft": Choice({"kind": "Oft"}, _rates(1e-3, 1e-3)),
    "Ia3": Choice({"kind": "Ia3"}, _rates(1e-2, 1e-2)),
    "Vera": Choice({"kind": "Vera"}, _rates(1e-2, 1e-2)),
    "LoHa": Choice({"kind": "LoHa"}, _rates(3e-3, 3e-3)),
    "PromptTuning": Choice({"kind": "PromptTuning"}, {"chat": 3e-2}),
    "FreezeExceptLast": Choice({"kind": "FreezeExceptLast"}, _rates(2e-4, 2e-4)),
    "Full": Choice({"kind": "Full"}, _rates(5e-5, 5e-5)),
}


def recipe_of(of: str, name: str, lr: float, seed: int) -> Any:
    """The recipe of one training."""
    from ptune.config.read_recipe import read_recipe
    from ptune.methods import METHODS

    chosen, choice = SETS[of], CHOICES[name]
    recipe = read_recipe(chosen.recipe)
    kinds = {kind.__name__: kind for kind in METHODS}
    fields = dict(choice.method)
    train = {**choice.train, "lr": lr, "seed": seed, "max_steps": chosen.steps, "batch_size": chosen.rows}
    return type(recipe)(
        name="choosing",
        backbone=recipe.backbone,
        data=recipe.data,
        method=kinds[fields.pop("kind")](**fields),  # type: ignore[arg-type]
        task=recipe.task.model_copy(update={**chosen.task, "max_length": chosen.tokens}),
        train=recipe.train.model_copy(update=train),
    )


@dataclass(frozen=True)
class Ground:
    """What all trainings on a set share: its rows, and the base before any training."""

    of: str
    work: Any
    base: Any

    @classmethod
    def read(cls, of: str, folder: Path) -> Ground:
        """Reads both as `ptune train` does."""
        import torch
        from accelerate import Accelerator

        from ptune.config.tasks import task_of
        from ptune.formats.run import Run
        from ptune.kinds import imported
        from ptune.training.preparation import resolved

        accelerator = Accelerator(cpu=True)
        recipe = resolved(recipe_of(of, "Lora", CHOICES["Lora"].lr[of], SEEDS[0]), accelerator)
        work = imported(task_of(recipe.task).work)(recipe, Run(folder), accelerator, "")
        return cls(of, work, work.load(torch.device("cpu")))

    @property
    def test(self) -> list[Any]:
        """The rows that choose nothing."""
        return list(self.work.data.test if self.of == "chat" else self.work.data.splits["test"].examples)

    def chitchat(self) -> list[Any]:
        """Conversations of another kind than the set's, as long as its rows may be."""
        from ptune.codecs.chat import Example

        lines = CHITCHAT.read_text(encoding="utf-8").splitlines()
        conversations = [json.loads(line)["messages"] for line in lines]
        other = [one for one in conversations if not one[0]["content"].startswith("Define:")]
        examples = [self.work.codec.encode_example(messages) for messages in other]
        most = SETS[self.of].tokens
        cut = [Example(one.ids[:most], one.targets[:most]) for one in examples]
        return [one for one in cut if any(one.targets[1:])]


@dataclass(frozen=True)
class Trained:
    """A model after its steps, and what they took. base: the transformers model inside it."""

    model: Any
    base: Any
    work: Any
    lr: float
    validation: float  # loss a target
    parameters: int
    cpu_s: float
    tokens: int


def trained_at(ground: Ground, recipe: Any, folder: Path) -> Trained:
    """Trains as `ptune train` does, without its checkpoints and validations."""
    from accelerate import Accelerator

    from ptune.methods.peft_method import PeftMethod
    from ptune.training.checkpoint import Checkpoints, trained
    from ptune.training.job import Job
    from ptune.training.journal.metrics_log import Journal
    from ptune.training.loop import optimizer_step
    from ptune.training.order import Order
    from ptune.training.preparation import applied, prepared, resolved

    accelerator = Accelerator(cpu=True)
    recipe = resolved(recipe, accelerator)
    work, base = replace(ground.work, recipe=recipe), copy.deepcopy(ground.base.model)
    model = applied(recipe, base, (), ground.base.head)
    method = recipe.method if isinstance(recipe.method, PeftMethod) else None
    rows, steps = work.data.train, recipe.train.max_steps
    order = Order(len(rows), recipe.train.batch_size, recipe.train.seed)
    with work.objective(base, accelerator.device) as objective:
        inner, optimizer = prepared(accelerator, model, recipe, ground.base.head)
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        journal = Journal(folder / "metrics.jsonl", accelerator)
        job = Job(
            recipe.train,
            accelerator,
            inner,
            optimizer,
            objective,
            rows,
            [],
            journal,
            checkpoints,
            method=method,
        )
        if method is not None:
            method.begin(model, steps)
        cpu_s, tokens = 0.0, 0
        for step in range(steps):
            batch = [rows[index] for index in order.batch(step)]
            started_s = time.process_time()
            optimizer_step(job, batch, step, steps)
            cpu_s += time.process_time() - started_s
            tokens += sum(map(objective.size, batch))
        chosen = [work.data.validation[index] for index in range(VALIDATION)]
        validation = mean_of(losses(objective, model, chosen)[0])
    parameters = sum(_moving(recipe.method, name, one) for name, one in trained(model))
    return Trained(model, base, work, recipe.train.lr, validation, parameters, cpu_s, tokens)


def _moving(method: Any, name: str, parameter: Any) -> int:
    """Numbers of a parameter that training changes: half of a factor that begins as a part of the weights."""
    mirrored = getattr(method, "init", None) in ("pissa", "olora", "corda", "lora_ga") and ".lora_" in name
    return int(parameter.numel()) // (2 if mirrored else 1)


def losses(objective: Any, model: Any, rows: Sequence[Any]) -> tuple[Losses, list[int]]:
    """Of each row: the sum of its losses with its targets, and how many of them were predicted correctly."""
    import torch

    model.eval()
    found, right = list[tuple[float, int]](), list[int]()
    with torch.no_grad():
        for row in rows:
            (batch,) = objective.batches([row])
            score = objective.score(model, batch)
            found.append((float(score.loss), score.targets))
            right.append(int(score.correct))
    return found, right


def measured(ground: Ground, name: str, folder: Path) -> dict[str, Any]:
    """A method on a set: the rate is chosen with the first seed, the figures are of all seeds."""
    of = ground.of
    swept = dict[str, float]()
    best: Trained | None = None
    for factor in FACTORS:
        one = trained_at(ground, recipe_of(of, name, CHOICES[name].lr[of] * factor, SEEDS[0]), folder)
        swept[f"{one.lr:.2g}"] = one.validation
        best = one if best is None or one.validation < best.validation else best
    assert best is not None
    facts = {"lr": best.lr, "parameters": best.parameters, "tokens": best.tokens}
    line = {"set": of, "method": name, **facts, "swept": swept, "planned_bytes": planned(best.work)}
    lr, seeds = best.lr, [held_out(ground, best, SEEDS[0])]
    del best, one  # before the next model is there
    for seed in SEEDS[1:]:
        seeds.append(held_out(ground, trained_at(ground, recipe_of(of, name, lr, seed), folder), seed))
    return {**line, "seeds": seeds}


def held_out(ground: Ground, one: Trained, seed: int) -> dict[str, Any]:
    """Losses of the test rows and, of chat, of text of another kind."""
    import torch

    with one.work.objective(one.base, torch.device("cpu")) as objective:
        found, right = losses(objective, one.model, ground.test)
        answer = {"seed": seed, "cpu_s": one.cpu_s, "losses": found, "right": right}
        if ground.of == "chat":
            answer["other"] = losses(objective, one.model, ground.chitchat())[0]
    return answer


def untrained(ground: Ground) -> dict[str, Any]:
    """The base of the chat set on both kinds of text."""
    one = Trained(ground.base.model, ground.base.model, ground.work, 0.0, 0.0, 0, 0.0, 0)
    return {"set": ground.of, "method": "base", "seeds": [held_out(ground, one, 0)]}


def planned(work: Any) -> int:
    """Bytes that `ptune plan` wants free."""
    from ptune.planning.prediction import predict

    rows = [work.data.train, work.data.validation]
    lengths, validation = ([len(row) for row in some] for some in rows)
    return predict(work.recipe, lengths, validation=validation, device="cpu").needed_bytes


def mean_of(sums: Sequence[tuple[float, int]]) -> float:
    """The loss a target."""
    return sum(total for total, _ in sums) / sum(targets for _, targets in sums)
