"""What a teacher's labels are worth to a student: python -m benchmarks.distillation --work FOLDER

The teacher is the shipped recipe chat_lora, the student that of distill_lora: the same base with half of its layers. It has a
quarter of the teacher's entries and passes over them four times. It is trained twice with each seed, on the same examples in the
same order, for as many steps, at the recipe's rate: on the answers alone (SFT), and as the recipe says; each keeps the weights of its
best validation. What is compared is the cross-entropy of the answers of the test entries, which chose nothing; its mean over the
seeds is paired entry by entry, with 95 % bootstrap intervals over the entries.

Beside that, with the first seed: one pass over all of the entries, with rank 16 and the loss half and half.

FOLDER keeps the runs: what is in it is not trained again. About an hour on one core. Writes results/distillation.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.sides import interval, write

if TYPE_CHECKING:
    from ptune.config.recipe import Recipe
    from ptune.formats.run import Run

PACKAGES = ("ptune", "torch", "transformers", "peft", "onnxruntime")
TEACHER, RECIPE = "chat_lora", "distill_lora"
SEEDS = (0, 1)
SIDES = ("sft", "distilled")
ENTRIES, PASSES = 168, 4
STEPS = 84  # of 8 entries
Losses: TypeAlias = list[tuple[float, int]]
"""Of each test entry: the sum of its losses, and its targets."""


def main() -> None:
    """Trains, labels and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    work: Path = parser.parse_args().work
    teacher = taught(work)
    labels = work / "labels"
    students = {
        side: [measured(trained(work / f"{side}-{seed}", student(side, seed, labels))) for seed in SEEDS]
        for side in SIDES
    }
    one_pass = {side: measured(trained(work / f"one-pass-{side}", once(side, labels))) for side in SIDES}
    sides = {side: over_seeds(losses) for side, losses in students.items()}
    rows: dict[str, Any] = {
        "teacher": loss_of(measured(teacher)),
        "student before training": loss_of(untrained(work)),
        **{side: loss_of(losses) for side, losses in sides.items()},
        "sft less distilled": loss_of(less(sides["sft"], sides["distilled"])),
    }
    for seed, sft, distilled in zip(SEEDS, students["sft"], students["distilled"], strict=True):
        rows[f"sft less distilled, seed {seed}"] = loss_of(less(sft, distilled))
    for side, losses_ in one_pass.items():
        rows[f"one pass, {side}"] = loss_of(losses_)
    rows["one pass, sft less distilled"] = loss_of(less(one_pass["sft"], one_pass["distilled"]))
    document = {
        "command": "python -m benchmarks.distillation --work FOLDER",
        "recipe": RECIPE,
        "seeds": list(SEEDS),
        "entries": len(sides["sft"]),
        "labels": facts(labels),
        "rows": rows,
    }
    print(json.dumps(rows, indent=1))
    print(write("distillation", document, PACKAGES))


def taught(work: Path) -> Run:
    """The teacher, whose labels are then in WORK/labels."""
    import ptune

    run = ptune.train(TEACHER, work / "teacher", resume=(work / "teacher").is_dir())
    if not (work / "bundle").is_dir():
        ptune.export(run, work / "bundle")
    ptune.label(RECIPE, work / "bundle", work / "labels", adapter="teacher")
    return run


def student(side: str, seed: int, labels: Path) -> Recipe:
    """The recipe of a student; of SFT it is the same one, but for its task."""
    import ptune

    task: Any = ptune.Chat() if side == "sft" else {"teacher_labels": labels}
    train = {"seed": seed, "max_steps": STEPS, "validate_every": STEPS // PASSES}
    return ptune.recipe(RECIPE, task=task, data={"limit": ENTRIES}, train=train)


def once(side: str, labels: Path) -> Recipe:
    """The recipe of a student that passes once over all entries."""
    import ptune

    task: Any = ptune.Chat() if side == "sft" else {"teacher_labels": labels, "kd_ratio": 0.5}
    return ptune.recipe(RECIPE, task=task, method={"r": 16, "alpha": 32}, train={"epochs": 1})


def trained(folder: Path, recipe: Recipe) -> Run:
    """A student's run."""
    import ptune

    return ptune.train(recipe, folder, resume=folder.is_dir())


def measured(run: Run) -> Losses:
    """The losses of a run, which are kept in its folder."""
    from ptune.config.recipe import Recipe
    from ptune.evaluation.evaluate import models_of

    kept = run.folder / "losses.json"
    if not kept.is_file():
        recipe = Recipe.load(run.recipe_path)
        _, model = models_of(run, run.finished_record(), recipe)
        kept.write_text(json.dumps(losses(model, recipe, run.codec_path)))
    return [(total, targets) for total, targets in json.loads(kept.read_text())]


def untrained(work: Path) -> Losses:
    """The student's base, without the layers that it lacks."""
    from ptune.backbone.load import load
    from ptune.config.recipe import Recipe
    from ptune.formats.run import Run

    run = Run(work / f"sft-{SEEDS[0]}")
    recipe = Recipe.load(run.recipe_path)
    return losses(load(recipe.backbone).model, recipe, run.codec_path)


def losses(model: Any, recipe: Recipe, codec: Path) -> Losses:
    """Of each test entry, by a model in evaluation mode."""
    import torch

    from ptune.codecs.chat import ChatCodec
    from ptune.data.examples import dataset
    from ptune.training.loss.next_token import NextTokenObjective

    made = dataset.load(recipe.data, recipe.chat, ChatCodec.open(codec), recipe.train.seed)
    objective = NextTokenObjective(False, 1, torch.device("cpu"))
    model.eval()
    found = []
    with torch.no_grad():
        for example in made.test:
            (batch,) = objective.batches([example])
            score = objective.score(model, batch)
            found.append((float(score.loss), int(score.targets)))
    return found


def over_seeds(seeds: Sequence[Losses]) -> Losses:
    """The mean of each entry over the seeds."""
    return [(sum(total for total, _ in row) / len(row), row[0][1]) for row in zip(*seeds, strict=True)]


def less(one: Losses, other: Losses) -> Losses:
    """By how much each entry's loss is larger."""
    return [(mine - its, targets) for (mine, targets), (its, _) in zip(one, other, strict=True)]


def mean(entries: Sequence[tuple[float, int]]) -> float:
    """Loss a token."""
    return sum(total for total, _ in entries) / sum(targets for _, targets in entries)


def loss_of(entries: Losses) -> dict[str, float]:
    """Loss a token, with its interval."""
    low, high = interval(entries, mean)
    return {"value": mean(entries), "low": low, "high": high}


def facts(labels: Path) -> dict[str, Any]:
    """What is in a folder of labels."""
    from ptune.data.teacher.labels import read_index

    index = read_index(labels)
    size_bytes = sum(file.stat().st_size for file in labels.iterdir())
    return {
        "top": index.settings.top,
        "temperature": index.settings.temperature,
        "examples": sum(shard.examples for shard in index.shards),
        "targets": sum(shard.targets for shard in index.shards),
        "bytes": size_bytes,
    }


if __name__ == "__main__":
    main()
