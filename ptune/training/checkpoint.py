"""Checkpoints: safetensors and JSON, never pickle. Each is written atomically; `latest.json` points to the newest.

    checkpoints/step-N/weights.safetensors     trained weights, and trained running statistics
                      /optimizer.safetensors   its tensors, named INDEX.KEY
                      /average.safetensors     the weights' running average, with `train.ema`
                      /sampled.safetensors     answers that the next step learns from once more, with `task.updates`
                      /state.json              loop state, optimiser's groups and numbers, SHA-256 of the other files
    checkpoints/latest.json                    {"step": N}, moved last

Data order, dropout and learning rate are functions of seed, step and state, so nothing else needs to be saved. Tensors are
stored whole, even if they are sharded over processes in memory: every process must make the call, and one writes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ptune.errors import FormatError
from ptune.formats.run import NothingLearnt, Rollback
from ptune.formats.whole_write import read_json, sha256_of, whole_folder, write_json
from ptune.methods.peft_method import METHOD_STATE
from ptune.progress import say
from ptune.training.average import Average
from ptune.training.distributed import laid_out_as, whole
from ptune.training.guards.collapse import Course
from ptune.training.guards.spike_protection import NormHistory
from ptune.training.layers.batch_norm import learnt_moments, learnt_statistics
from ptune.training.loss.scale import LossScale
from ptune.training.optimizer_state import entries_of, numbers_of, restore
from ptune.training.sampler import ReusingSampler

FORMAT = 1
LR_FACTOR = 1 / 3  # on the learning rate, at each rollback


@dataclass(frozen=True)
class State:
    """The position of the loop."""

    step: int = 0  # optimiser steps done
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0  # validations since the best one
    seconds: float = 0.0
    safe_step: int | None = None  # the checkpoint to go back to after a collapse
    norms: NormHistory = field(default_factory=NormHistory)
    course: Course = field(default_factory=Course)
    rollbacks: tuple[Rollback, ...] = ()
    nothing_learnt: tuple[NothingLearnt, ...] = ()
    scale: LossScale = field(default_factory=LossScale)  # of a model in float16

    def after(
        self, loss: float, norm: float, scale: float | None = None, *, comparable: bool = True
    ) -> State:
        """The state after one more step. scale: the factor on its loss; None: there was none.

        comparable: whether its examples are drawn as those of other steps are, so that a higher loss says something.
        """
        scaled = self.scale if scale is None else self.scale.after(scale)
        norms, course = self.norms.after(norm), self.course.after(loss) if comparable else self.course
        return replace(self, step=self.step + 1, norms=norms, course=course, scale=scaled)

    def suspected(self) -> State:
        """The state of a step whose loss looks like a collapse."""
        return replace(self, course=replace(self.course, suspected=self.step))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> State:
        """The state in state.json. Fields that an older ptune did not write begin anew. Raises: KeyError, TypeError."""
        return cls(
            **{name: record[name] for name in ("step", "best_step", "best_loss", "worse", "seconds")},
            safe_step=record.get("safe_step", record["best_step"]),
            norms=NormHistory(**record.get("norms", {})),
            course=Course.from_record(record.get("course", {})),
            rollbacks=tuple(Rollback(**one) for one in record.get("rollbacks", ())),
            nothing_learnt=tuple(NothingLearnt(**one) for one in record.get("nothing_learnt", ())),
            scale=LossScale(**record.get("scale", {})),
        )


class Checkpoints:
    """The checkpoints of one run. writes: whether this process writes them. average: is saved and loaded with the weights, and
    with the loop's state what `sampler` holds.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        writes: bool = True,
        average: Average | None = None,
        sampler: ReusingSampler | None = None,
    ) -> None:
        self.folder, self.keep, self.writes, self.average = folder, keep, writes, average
        self.sampler = sampler

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes step-N, points latest.json to it, and removes checkpoints that are neither among the newest nor the best."""
        held = optimizer.state_dict()
        weights = self._gathered(learnt(model))
        tensors = self._gathered(
            (f"{index}.{key}", value)
            for index, key, value in entries_of(held)
            if isinstance(value, torch.Tensor)
        )
        average = None if self.average is None else self._gathered(self.average.tensors.items())
        if not self.writes:
            return
        with tensors_folder(self._of(state.step)) as part:
            save_file(weights, part / "weights.safetensors")
            save_file(tensors, part / "optimizer.safetensors")
            if average is not None:
                save_file(average, part / "average.safetensors")
            if self.sampler is not None and (sampled := self.sampler.held(state.step)):
                save_file(dict(sampled), part / "sampled.safetensors")
            files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
            rest = {"groups": held["param_groups"], "numbers": numbers_of(held)}
            record = {"format": FORMAT, **asdict(state), **rest, "files": files}
            write_json(part / "state.json", record)
        write_json(self.folder / "latest.json", {"step": state.step})
        before = [step for step in self._steps() if step < state.step]
        for step in before[self.keep - 1 :]:
            if step not in (state.best_step, state.safe_step):
                shutil.rmtree(self._of(step))

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Loads the newest undamaged checkpoint; reports each damaged one and tries the one before it.

        Returns the state to continue from, or a new one if there is no checkpoint. Once all processes agree on it,
        `forget_after` removes later checkpoints.
        """
        newest, steps = self.newest(), self._steps()
        for step in steps:
            if newest is not None and step > newest:
                continue  # the process died before it moved the pointer here
            try:
                record = self._checked(step)
                state = State.from_record(record)
                self.load_weights(step, model)
                self._load_optimizer(step, record, optimizer)
                self._take_up(step)
                return self._with_best_at_hand(state)
            except (FormatError, SafetensorError, KeyError, TypeError) as error:
                say(f"checkpoint step-{step} cannot be used ({error}); trying the one before it")
        if steps:
            say("no checkpoint can be used: training starts from the beginning")
        return State()

    def roll_back(
        self, step: int, rollbacks: tuple[Rollback, ...], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> State:
        """Loads the checkpoint of `step`, enters the rollbacks into it and makes it the newest.

        Killed at any moment, a run goes on either from here or from a later checkpoint, which collapses to here again.
        Raises: FormatError if the checkpoint is damaged.
        """
        record = self._checked(step)
        self.load_weights(step, model)
        self._load_optimizer(step, record, optimizer)
        if self.writes:
            entered = {**record, "rollbacks": [asdict(one) for one in rollbacks]}
            write_json(self._of(step) / "state.json", entered)
            write_json(self.folder / "latest.json", {"step": step})
        self.forget_after(step)
        return replace(State.from_record(record), rollbacks=rollbacks)

    def forget_after(self, step: int) -> None:
        """Removes checkpoints after `step`: they are incomplete or damaged, and their steps will be repeated."""
        if self.writes:
            for later in [later for later in self._steps() if later > step]:
                shutil.rmtree(self._of(later))

    def load_weights(self, step: int, model: nn.Module) -> None:
        """Loads the trained weights of a checkpoint into `model`, and their average.

        Raises: FormatError if the sets of weights differ.
        """
        self._load(step, "weights", dict(learnt(model)), {})
        if self.average is not None:
            # Batch normalisation's statistics are in no average that an older ptune wrote: they begin as the weights' own.
            self._load(step, "average", self.average.tensors, dict(learnt_moments(model)))

    @torch.no_grad()
    def _load(
        self, step: int, file: str, current: Mapping[str, torch.Tensor], absent: Mapping[str, torch.Tensor]
    ) -> None:
        """absent: what a file need not hold, and is taken instead."""
        path = self._of(step) / f"{file}.safetensors"
        saved = {**absent, **load_file(path)} if path.is_file() else {}
        if saved.keys() != current.keys():
            raise FormatError(f"{self._of(step)} holds other weights than this recipe trains")
        for name, tensor in current.items():
            tensor.copy_(laid_out_as(tensor, saved[name]))

    def _checked(self, step: int) -> dict[str, Any]:
        """state.json of a checkpoint. Raises: FormatError if its files do not match their hashes."""
        record = read_json(self._of(step) / "state.json")
        for name, expected in record["files"].items():
            path = self._of(step) / name
            if not path.is_file() or sha256_of(path) != expected:
                raise FormatError(f"{name} is damaged")
        return record

    def _with_best_at_hand(self, state: State) -> State:
        """`state` without its best checkpoint if that is damaged: the weights of a later one will be kept."""
        if state.best_step in (None, state.step):
            return state
        try:
            self._checked(state.best_step)
        except (FormatError, KeyError) as error:
            say(f"checkpoint step-{state.best_step}, the best so far, cannot be used ({error}); ignoring it")
            safe = None if state.safe_step == state.best_step else state.safe_step
            return replace(state, best_step=None, best_loss=None, safe_step=safe)
        return state

    def _gathered(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Whole tensors in main memory, in the process that writes; {} in the others."""
        gathered = dict[str, torch.Tensor]()
        for name, tensor in tensors:
            full = whole(tensor.detach())  # one at a time: only the writer holds more than one
            if self.writes:
                gathered[name] = full.cpu().contiguous()
        return _apart(gathered)

    def _load_optimizer(self, step: int, record: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        tensors = load_file(self._of(step) / "optimizer.safetensors")
        restore(optimizer, tensors, record.get("numbers", {}), record["groups"])

    def _take_up(self, step: int) -> None:
        if self.sampler is not None:
            path = self._of(step) / "sampled.safetensors"
            self.sampler.take_up(step, load_file(path) if path.is_file() else {})

    def newest(self) -> int | None:
        """The step that latest.json points to; None if the file is missing or damaged."""
        try:
            return int(read_json(self.folder / "latest.json")["step"])
        except (FormatError, KeyError, TypeError, ValueError):
            return None

    def _steps(self) -> list[int]:
        """Steps of the checkpoints on disk, newest first."""
        names = [path.name.removeprefix("step-") for path in self.folder.glob("step-*")]
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step}"


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, copied where several are one in memory, as bitsandbytes' tables are: safetensors takes none of these."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return tensors


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def learnt(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Everything that training changes: parameters, the running statistics of batch normalisation, a method's memory."""
    memory = getattr(model, METHOD_STATE, None)
    remembered = (
        [] if memory is None else [(f"{METHOD_STATE}.{name}", one) for name, one in memory.named_buffers()]
    )
    return [*trained(model), *learnt_statistics(model), *remembered]


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state to save of a sharded model, gathered: the adapter if there is one, else all weights."""
    wanted = dict(trained(model)) if isinstance(model, PeftModel) else model.state_dict()
    return {name: whole(tensor.detach()).cpu() for name, tensor in wanted.items()}


@contextlib.contextmanager
def tensors_folder(path: Path) -> Iterator[Path]:
    """`whole_folder` for safetensors files, whose writer reports the system's error number only in its message.

    Raises: PtuneError if the disk is full or the folder cannot be written.
    """
    with whole_folder(path) as part:
        try:
            yield part
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
