"""Whether a model that is served under a form should be trained under it: python -m benchmarks.form_loss --work FOLDER

A server that is asked for JSON of a schema takes each token from those that the schema allows there. Training could do the same: the
loss of an answer's token would be normalised over the tokens that the grammar allows at its place, instead of over the whole
vocabulary. Both sides are trained here from the same adapter on the same rows in the same order, for as many steps at the same rate,
with LoRA as the shipped recipe chat_lora has it. The masks are those of the server's own grammar.

Both are judged as they are served, on rows that no training saw: by -log p of the right answer's tokens among those that the grammar
allows, and by the share of rows whose most likely token is the right one at every place, so that the greedy answer is the right one,
token for token; beside that without the grammar. Means over the seeds are compared
row by row, with 95 % bootstrap intervals over the rows.

FOLDER keeps each run's figures: what is in it is not run again. Writes results/form_loss.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.sides import interval, write
from ptune.codecs.chat import ChatCodec, Example
from ptune.codecs.structured_output import StructuredOutput
from ptune.data.read import resolve
from ptune.engine.decoder.answers.grammar import Grammar, Grammars
from ptune.formats.whole_write import write_json
from ptune.training.loss.judged import Verdict
from ptune.training.rows.answer_rows import answer_rows
from ptune.training.rows.packing import ALONE
from ptune.training.schedule import factor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ptune.training.loss.next_token import NextTokenObjective

PACKAGES = ("ptune", "torch", "transformers", "peft", "llguidance")
RECIPE = "chat_lora"
CPU = torch.device("cpu")
BATCH, JUDGED = 8, 40  # rows of a step, and of a forward pass that judges
SIDES = ("ordinary", "masked")
MOODS = ["positive", "neutral", "negative"]
KINDS = {"APP": "apps", "GUI": "controls", "FILE": "files", "KEY": "keys", "CMD": "commands"}
Figures = list[dict[str, float]]
"""Of each held-out row."""


@dataclass(frozen=True)
class Setting:
    """What is trained how often, and at which rate."""

    task: str  # see TASKS
    rows: int
    steps: int
    rate: float
    seeds: tuple[int, ...] = (0, 1, 2)

    def __str__(self) -> str:
        return f"{self.task}, {self.rows} rows, {self.steps} steps, {self.rate:g}"


SETTINGS = (
    Setting("mood as JSON", 64, 8, 1e-3),
    Setting("names as JSON", 48, 6, 1e-3, seeds=(0,)),
)


@dataclass(frozen=True)
class Task:
    """Questions whose answers have a form."""

    system: str
    schema: dict[str, Any]
    rows: Callable[[], tuple[list[tuple[str, Any]], list[tuple[str, Any]]]]
    """Text and answer: of training, and held out. Without the latter each half is held out once."""


def moods() -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Tweets, and what they feel like."""
    train, test = (
        [(row["text"], {"sentiment": row["label"]}) for row in sample(f"tweets3_sample.{name}")]
        for name in ("train", "test")
    )
    return train, test


def names() -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Sentences, and the names of each kind in them."""
    rows = [*sample("ui_terms.train"), *sample("ui_terms.test")]
    random.Random(5).shuffle(rows)
    return [(" ".join(row["tokens"]), named(row["tokens"], row["tags"])) for row in rows], []


def sample(name: str) -> list[dict[str, Any]]:
    """The rows of a sample that ships with ptune."""
    return [json.loads(line) for line in resolve(Path(f"sample:{name}")).read_text("utf-8").splitlines()]


def named(tokens: Sequence[str], tags: Sequence[str]) -> dict[str, list[str]]:
    """The names that BIO tags mark, by their kind."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("B-"):
            found[KINDS[tag[2:]]].append(token)
        elif tag.startswith("I-"):
            found[KINDS[tag[2:]]][-1] += f" {token}"
    return found


def form_of(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


TEXTS = {"type": "array", "items": {"type": "string"}}
TASKS = {
    "mood as JSON": Task(
        "Give the sentiment of the tweet as JSON.", form_of({"sentiment": {"enum": MOODS}}), moods
    ),
    "names as JSON": Task(
        "List what the sentence names, as JSON.", form_of(dict.fromkeys(KINDS.values(), TEXTS)), names
    ),
}


@dataclass(frozen=True)
class Row:
    """An example and what the grammar allows at each target."""

    example: Example
    allowed: np.ndarray[Any, np.dtype[np.uint8]]  # [targets, vocab / 8]


@dataclass(frozen=True)
class Allowed:
    """Cross-entropy over the allowed tokens: a `ptune.training.loss.judged.Judge`."""

    bits: Tensor  # [targets, vocab / 8]
    masked: bool  # False: cross-entropy over all tokens
    seen: list[Tensor] = field(default_factory=list)
    """[targets, 4]: log p and whether it is the most likely token, among those allowed and among all."""
    arrays: ClassVar[int] = 3

    def split(self, rows: int) -> list[Allowed]:
        """In chunks of so many targets."""
        return [Allowed(part, self.masked, self.seen) for part in self.bits.split(rows)]

    def verdict(self, logits: Tensor, labels: Tensor) -> Verdict:
        """On targets whose logits are [targets, vocab]."""
        wanted = labels[:, None]
        bools = np.unpackbits(self.bits.numpy(), axis=1, count=logits.shape[1]).view(np.bool_)
        free = logits.log_softmax(1)
        logits.masked_fill_(torch.from_numpy(~bools), -math.inf)
        served = logits.log_softmax(1)
        of_both = [
            (log_p.gather(1, wanted)[:, 0], (log_p.argmax(1) == labels).float()) for log_p in (served, free)
        ]
        self.seen.append(torch.stack([*of_both[0], *of_both[1]], 1))
        log_p = served if self.masked else free
        own = log_p.gather(1, wanted)
        gradient = log_p.exp_().scatter_add_(1, wanted, torch.full_like(own, -1.0))
        return Verdict(-own.sum(), gradient, own[:, 0])


class Bench:
    """The model, its codec and grammars."""

    def __init__(
        self, base: PreTrainedModel, codec: ChatCodec, model: torch.nn.Module, objective: NextTokenObjective
    ) -> None:
        self.model, self.objective, self.codec = model, objective, codec
        self.vocab: int = base.config.vocab_size
        self._rows: dict[str, tuple[list[Row], list[Row]]] = {}
        encode = partial(codec.encode_text, special=False)
        self._grammars = Grammars(codec.token_table(self.vocab), codec.special_ids, encode)

    def rows(self, name: str) -> tuple[list[Row], list[Row]]:
        """Training and held-out rows of a task."""
        if name not in self._rows:
            self._rows[name] = self._made(TASKS[name])
        return self._rows[name]

    def _made(self, task: Task) -> tuple[list[Row], list[Row]]:
        output = StructuredOutput.json(task.schema)
        grammar = self._grammars.compile(
            output.source(stripped=self.codec.takes_first_space), self.codec.eos_ids
        )
        train, held_out = ([self._row(task, *pair, grammar) for pair in pairs] for pairs in task.rows())
        return train, held_out

    def _row(self, task: Task, text: str, answer: Any, grammar: Grammar) -> Row:
        asked = [{"role": "system", "content": task.system}, {"role": "user", "content": text}]
        example = self.codec.encode_example([*asked, {"role": "assistant", "content": json.dumps(answer)}])
        wanted = [token for token, target in zip(example.ids, example.targets, strict=True) if target]
        walk, masks = grammar.walk(), []
        for place, token in enumerate(wanted):
            masks.append(walk.allowed())
            if not masks[-1][token]:
                raise ValueError(f"the grammar refuses token {place} of {answer}")
            if place + 1 < len(wanted):
                walk.advance(token)
        return Row(example, np.packbits(np.stack(masks), axis=1))

    def begin(self, seed: int) -> None:
        """A new adapter, as PEFT begins one."""
        torch.manual_seed(seed)
        for name, weight in self.model.named_parameters():
            if "lora_A" in name:
                torch.nn.init.kaiming_uniform_(weight.data, a=math.sqrt(5))
            elif "lora_B" in name:
                weight.data.zero_()

    def judged(self, rows: Sequence[Row], *, masked: bool) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and what is seen of each target."""
        group = SimpleNamespace(sides=[row.example for row in rows])
        (batch,) = next(answer_rows([group], 1 << 30, CPU, ALONE, packed=True)).passes
        judge = Allowed(torch.from_numpy(np.concatenate([row.allowed for row in rows])), masked)
        loss, _ = self.objective.judged(self.model, batch, judge)
        return loss, torch.cat(judge.seen)

    def train(self, rows: Sequence[Row], setting: Setting, seed: int, *, masked: bool) -> list[float]:
        """Trains a new adapter; returns the loss of each step."""
        import ptune
        from ptune.training.preparation import optimizer_for

        self.begin(seed)
        optimizer = optimizer_for(self.model, ptune.recipe(RECIPE).train)
        chance, waiting, losses = random.Random(seed), list[Row](), list[float]()
        self.model.train()
        for step in range(setting.steps):
            waiting = waiting or chance.sample(rows, len(rows))
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            for group in optimizer.param_groups:
                group["lr"] = setting.rate * factor(step, setting.steps, "cosine", warmup=0.05)
            torch.manual_seed(seed * 1000 + step)
            loss, seen = self.judged(batch, masked=masked)
            (loss / len(seen)).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()) / len(seen))
        return losses

    @torch.no_grad()
    def judge(self, rows: Sequence[Row]) -> Figures:
        """The figures of each row, under the grammar and without it."""
        self.model.eval()
        found: Figures = []
        for first in range(0, len(rows), JUDGED):
            some = rows[first : first + JUDGED]
            _, seen = self.judged(some, masked=True)
            for targets in seen.split([len(row.allowed) for row in some]):
                log_p, exact, free_log_p, free_exact = zip(*targets.tolist(), strict=True)
                found.append(
                    {
                        "loss": -sum(log_p),
                        "exact": min(exact),
                        "free_loss": -sum(free_log_p),
                        "free_exact": min(free_exact),
                    }
                )
        return found


def main() -> None:
    """Trains and judges."""
    import ptune
    from ptune.backbone.load import load
    from ptune.training.loss.head import plain_head
    from ptune.training.loss.next_token import NextTokenObjective
    from ptune.training.preparation import applied
    from ptune.training.rows.segments import packing

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the figures of runs")
    work: Path = parser.parse_args().work
    recipe = ptune.recipe(RECIPE, backbone={"dtype": "bfloat16"})
    loaded = load(recipe.backbone)
    model = applied(recipe, loaded.model)
    with packing(loaded.model) as packed:
        objective = NextTokenObjective(packed, 1 << 30, CPU, plain_head(loaded.model))
        bench = Bench(loaded.model, loaded.codec, model, objective)
        rows = {str(setting): figures(bench, setting, work) for setting in SETTINGS}
    document = {
        "command": "python -m benchmarks.form_loss --work FOLDER",
        "recipe": RECIPE,
        "dtype": "bfloat16",
    }
    print(json.dumps(rows, indent=1))
    print(write("form_loss", {**document, "rows": rows}, PACKAGES))


def figures(bench: Bench, setting: Setting, work: Path) -> dict[str, Any]:
    """What a setting comes to: the means of either side, and the masked side's over the ordinary one's, of each seed too."""
    seeds = [{side: held_out(bench, setting, seed, side, work) for side in SIDES} for seed in setting.seeds]
    ordinary, masked = (over_seeds([runs[side] for runs in seeds]) for side in SIDES)
    return {
        "held_out": len(ordinary),
        "ordinary": means(ordinary),
        "masked": means(masked),
        "masked over ordinary": over(masked, ordinary),
        "seeds": {
            str(seed): over(runs["masked"], runs["ordinary"])
            for seed, runs in zip(setting.seeds, seeds, strict=True)
        },
    }


def held_out(bench: Bench, setting: Setting, seed: int, side: str, work: Path) -> Figures:
    """A side's figures of all held-out rows, kept in the folder."""
    train, test = bench.rows(setting.task)
    half = len(train) // 2
    parts = [(train, test)] if test else [(train[:half], train[half:]), (train[half:], train[:half])]
    found: Figures = []
    for number, (pool, rows) in enumerate(parts):
        kept = work / f"{setting}, seed {seed}, part {number}, {side}.json"
        if not kept.is_file():  # a run takes a minute or two
            some = random.Random(seed).sample(pool, setting.rows)
            losses = bench.train(some, setting, seed, masked=side == "masked")
            write_json(kept, {"losses": losses, "rows": bench.judge(rows)})
            print(
                f"{kept.stem}: {fmean(row['loss'] for row in json.loads(kept.read_text())['rows']):.4f}",
                flush=True,
            )
        found += json.loads(kept.read_text())["rows"]
    return found


def over_seeds(seeds: Sequence[Figures]) -> Figures:
    """The mean of each row over the seeds."""
    return [{name: fmean(row[name] for row in same) for name in same[0]} for same in zip(*seeds, strict=True)]


def means(rows: Figures) -> dict[str, float]:
    """The mean of each figure over the rows."""
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def over(one: Figures, other: Figures) -> dict[str, float]:
    """The one's mean loss by the other's, with its interval over the rows."""
    pairs = [(mine["loss"], its["loss"]) for mine, its in zip(one, other, strict=True)]

    def share(some: Sequence[tuple[float, float]]) -> float:
        return sum(mine for mine, _ in some) / sum(its for _, its in some)

    low, high = interval(pairs, share)
    return {"value": share(pairs), "low": low, "high": high}


if __name__ == "__main__":
    main()
