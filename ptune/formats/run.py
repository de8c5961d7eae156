"""The run folder, format 1: written by `ptune train`, read by `evaluate` and `export`.

run.json          status, versions, instruction set, threads, base identity
recipe.yaml       the resolved recipe, which reruns the training
data.json         files, fingerprints, splits, counts
rows/             data passed in memory, one JSONL file per split
codec/            tokenizer.json, codec.json, chat_template.jinja
adapter/          PEFT's own format, unchanged; beside it ptune.json and, once exported, parity.json (ptune.formats.parity_json)
model/            instead of adapter/ if the base's own weights were trained: a plain transformers folder
checkpoints/      step-N/ (safetensors + JSON) and latest.json, a pointer moved last
metrics.jsonl     one JSON object per line
samples.jsonl     models that write text: one line per prompt and validation
evaluation.json   held-out figures: before and after for chat, with intervals and baselines for classifiers
predictions.jsonl classifiers: one line per held-out row
report.html       self-contained
README.md         model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ptune.errors import FormatError
from ptune.formats.bundle import BaseIdentity, Hop, parse
from ptune.formats.whole_write import read_json, write_json

FORMAT = 1


WHAT_TO_TRY = "try another train.lr (ptune tune --lr-range), more steps, or other data"


@dataclass(frozen=True)
class Rollback:
    """A collapse of the training, and where it went back to, with a lower rate."""

    step: int  # after which it was seen
    to_step: int  # whose checkpoint was taken up again; 0: the start
    lr: float  # peak learning rate from there on; 0: training ended, with the weights of that step
    told: str  # what the loss showed

    def what_followed(self) -> str:
        """A sentence: where training went on, and how."""
        place = f"step {self.to_step}" if self.to_step else "the start"
        if not self.lr:
            return f"It ended there, with the weights of {place}; a lower train.lr might have gone further"
        return f"It went back to {place}, and on with a third of the learning rate, {self.lr:.2g}"


@dataclass(frozen=True)
class NothingLearnt:
    """A moment at which no validation had been better than always giving the same answer."""

    step: int
    loss: float  # the lowest validation loss so far
    constant: float  # of always giving the same answer

    def told(self) -> str:
        """The two losses."""
        return f"the lowest validation loss is {self.loss:.3g}, and always giving the same answer has {self.constant:.3g}"


class RunRecord(BaseModel):
    """run.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    status: Literal["running", "interrupted", "stopped early", "finished"] = "running"
    created: str
    command: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    instruction_set: str = ""
    threads: int = 0
    processes: int = 1
    distributed: str = "NO"  # how they share the work, as accelerate calls it: NO, MULTI_CPU, MULTI_GPU, FSDP
    attention: str = ""  # the kernel that computed it
    unrepeatable: tuple[str, ...] = ()  # operations of the GPU that give other bits each time
    changes: tuple[str, ...] = ()  # what changed at each resume that may change the bits
    base: BaseIdentity
    method: str = ""
    optimizer: str = ""
    steps: int = 0  # optimiser steps done
    planned_steps: int = 0  # optimiser steps that it was to take when it began; 0: not recorded
    best_step: int | None = None
    ending: str = (
        ""  # a sentence or two: why training ended before its planned steps, and which step was kept
    )
    seconds: float = 0.0
    rollbacks: tuple[Rollback, ...] = ()
    nothing_learnt: tuple[NothingLearnt, ...] = ()  # once while it ran, and once at its end
    hops: tuple[Hop, ...] = ()

    def how_it_ended(self) -> str:
        """Why training ended where it did, and which step was kept; empty while it runs, and where it just ran to its end."""
        if self.ending or self.status != "stopped early":  # runs of an older ptune did not record it
            return self.ending
        planned = f" of {self.planned_steps}" if self.planned_steps else ""
        kept = "" if self.best_step is None else f" Step {self.best_step} was kept."
        return f"Stopped early after step {self.steps}{planned}.{kept}"

    def troubles(self) -> list[str]:
        """A sentence or two for each collapse of the training, and for what was not learnt."""
        collapses = [
            f"After step {one.step} training had collapsed: {one.told}. {one.what_followed()}."
            for one in self.rollbacks
        ]
        if not self.nothing_learnt:
            return collapses
        last = self.nothing_learnt[-1]
        when = "At its end" if last.step == self.steps else f"Until step {last.step}"
        return [*collapses, f"{when} nothing was learnt: {last.told()}; {WHAT_TO_TRY}."]


def _what_instead(folder: Path) -> str:
    """What to do about a folder that is no run."""
    if (folder / "manifest.json").is_file():
        return f"it is a bundle; `ptune serve {folder}` serves it, and `ptune train RECIPE` makes a run"
    return "make one with `ptune train RECIPE`"


class Run:
    """A run folder and the paths of its files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.record_path = self.folder / "run.json"
        self.recipe_path = self.folder / "recipe.yaml"
        self.data_path = self.folder / "data.json"
        self.rows_path = self.folder / "rows"
        self.codec_path = self.folder / "codec"
        self.adapter_path = self.folder / "adapter"
        self.model_path = (
            self.folder / "model"
        )  # methods that train the base's own weights write a whole model
        self.checkpoints_path = self.folder / "checkpoints"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.samples_path = self.folder / "samples.jsonl"
        self.evaluation_path = self.folder / "evaluation.json"
        self.report_path = self.folder / "report.html"
        self.card_path = self.folder / "README.md"

    def __repr__(self) -> str:
        """The run in short: Run('runs/mine', finished, 120 steps)."""
        if not self.record_path.is_file():
            return f"Run({str(self.folder)!r}, not begun)"
        record = self.record()
        return f"Run({str(self.folder)!r}, {record.status}, {record.steps} steps)"

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens an existing run. Raises: FormatError."""
        run = cls(folder)
        if not run.folder.is_dir():
            raise FormatError(f"no run at {run.folder}: make one with `ptune train RECIPE`")
        if not run.record_path.is_file():
            raise FormatError(f"{run.folder} is not a run, it has no run.json: {_what_instead(run.folder)}")
        run.record()
        return run

    def record(self) -> RunRecord:
        """Reads run.json. Raises: FormatError."""
        return parse(RunRecord, read_json(self.record_path), self.record_path)

    def finished_record(self) -> RunRecord:
        """Reads run.json of a run that has finished. Raises: FormatError if it has not."""
        record = self.record()
        if record.status not in ("finished", "stopped early"):
            raise FormatError(
                f"{self.folder} is {record.status}, not finished: go on with `ptune train {self.recipe_path} --out {self.folder} --resume`"
            )
        return record

    @property
    def has_adapter(self) -> bool:
        return self.adapter_path.is_dir()

    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl: a dict per step (`step`, `loss`, `lr`, …) and per validation (`step`, `validation_loss`).

        Empty before the first step. `pandas.DataFrame(run.metrics())` makes a table of it.
        """
        return read_lines(self.metrics_path) if self.metrics_path.is_file() else []

    def samples(self) -> list[dict[str, Any]]:
        """samples.jsonl: for each validation and prompt a dict of `step`, `prompt`, `answer`, `ended` and `expected`.

        Empty where the model has answered nothing while it trained.
        """
        return read_lines(self.samples_path) if self.samples_path.is_file() else []

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_path, record.model_dump(mode="json"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl or samples.jsonl, up to a line that is incomplete or damaged."""
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:  # of bytes that are no UTF-8, too
            break
        if not isinstance(entry, dict):
            break
        entries.append(entry)
    return entries
