"""Checkpoints: safetensors and JSON, never pickle; each is written whole, and `latest.json` points to the newest.

    checkpoints/step-N/weights.safetensors     what is being trained
                      /optimizer.safetensors   its tensors, named INDEX.KEY
                      /state.json              loop state, optimiser's groups, SHA-256 of the two files
    checkpoints/latest.json                    {"step": N}, moved last

Data order, dropout and learning rate are functions of seed and step, so there is nothing else to save.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, sha256_of, whole_folder, write_json
from ptune.progress import say

FORMAT = 1


@dataclass(frozen=True)
class State:
    """Where the loop stands."""

    step: int = 0  # optimiser steps done
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0  # validations since the best one
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes step-N, points latest.json to it, and drops what is neither among the newest nor the best."""
        held = optimizer.state_dict()
        tensors = {
            f"{index}.{key}": value for index, entry in held["state"].items() for key, value in entry.items()
        }
        target = self._of(state.step)
        with tensors_folder(target) as part:
            save_file(
                {name: p.detach().cpu().contiguous() for name, p in trained(model)},
                part / "weights.safetensors",
            )
            save_file(
                {name: t.cpu().contiguous() for name, t in tensors.items()}, part / "optimizer.safetensors"
            )
            files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
            record = {"format": FORMAT, **asdict(state), "groups": held["param_groups"], "files": files}
            write_json(part / "state.json", record)
        write_json(self.folder / "latest.json", {"step": state.step})
        for step in self._steps()[self.keep :]:
            if step != state.best_step:
                shutil.rmtree(self._of(step))

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Loads the newest checkpoint that is whole; where one is damaged says so and takes the one before.

        Returns the state to go on from, a fresh one where there is no checkpoint.
        """
        newest = (
            read_json(self.folder / "latest.json")["step"] if (self.folder / "latest.json").is_file() else 0
        )
        for step in self._steps():
            if step > newest:
                continue  # its pointer was never moved: the process died in between
            try:
                record = self._checked(step)
                self.load_weights(step, model)
                optimizer.load_state_dict(self._optimizer_state(step, record))
                return State(**{name: record[name] for name in State.__dataclass_fields__})
            except (FormatError, SafetensorError, KeyError) as error:
                say(f"checkpoint step-{step} cannot be used ({error}); trying the one before it")
        return State()

    def load_weights(self, step: int, model: nn.Module) -> None:
        """Puts the trained weights of a checkpoint into `model`. Raises: FormatError where they are not the same set."""
        saved = load_file(self._of(step) / "weights.safetensors")
        current = dict(trained(model))
        if saved.keys() != current.keys():
            raise FormatError(f"{self._of(step)} holds other weights than this recipe trains")
        with torch.no_grad():
            for name, parameter in current.items():
                parameter.copy_(saved[name])

    def _checked(self, step: int) -> dict[str, Any]:
        record = read_json(self._of(step) / "state.json")
        for name, expected in record["files"].items():
            path = self._of(step) / name
            if not path.is_file() or sha256_of(path) != expected:
                raise FormatError(f"{name} is damaged")
        return record

    def _optimizer_state(self, step: int, record: dict[str, Any]) -> dict[str, Any]:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(self._of(step) / "optimizer.safetensors").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        return {"state": state, "param_groups": record["groups"]}

    def _steps(self) -> list[int]:
        """Newest first."""
        names = [path.name.removeprefix("step-") for path in self.folder.glob("step-*")]
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step}"


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are being trained, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


@contextlib.contextmanager
def tensors_folder(path: Path) -> Iterator[Path]:
    """`whole_folder` for safetensors files, whose writer buries the system's error number in a text of its own.

    Raises: PtuneError where the disk is full or the folder cannot be written.
    """
    with whole_folder(path) as part:
        try:
            yield part
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
