"""samples.jsonl: what the model answers to a few held-out prompts at each validation.

Answers are greedy, and computed beside the training, which is the same to the byte with and without them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.formats.run import read_lines
from ptune.formats.whole_write import disk_errors, write_text
from ptune.progress import say

MOST_S = 20.0
"""Seconds after which the answers of a validation end where they are: those of a large model on a slow machine."""


@dataclass(frozen=True)
class Asked:
    """A held-out prompt as a reader sees it, and the answer that the data has, if any."""

    question: str
    expected: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model has written. ended: whether it came to its own end before the limit."""

    text: str
    ended: bool


class Answering(Protocol):
    """Answers a few held-out prompts with the model that is trained."""

    @property
    def asked(self) -> Sequence[Asked]:
        """The prompts."""

    def answers(self, model: nn.Module, most_s: float) -> list[Answer]:
        """A greedy answer to each, in at most `most_s` seconds and a token; draws no random numbers."""


@runtime_checkable
class WritesText(Protocol):
    """A `ptune.training.work.Work` of a task that writes text."""

    def answering(self, base: PreTrainedModel) -> Answering | None:
        """What answers `evaluate.samples` prompts; None for none. base: before the objective sets it up."""


class Samples:
    """Writes samples.jsonl: {"step", "prompt", "answer", "ended", "expected"}, a line for each prompt and validation."""

    def __init__(self, path: Path, answering: Answering | None, *, writes: bool) -> None:
        """writes: whether this is the process that does."""
        self._path, self._answering, self._writes = path, answering, writes

    def forget_after(self, step: int) -> None:
        """Removes the lines of steps after `step`, which will be repeated."""
        if self._writes and self._path.is_file():
            kept = [line for line in read_lines(self._path) if line["step"] <= step]
            write_text(self._path, "".join(map(_line, kept)))

    def write(self, step: int, model: nn.Module) -> None:
        """Has `model` answer. It is left in evaluation mode, and random numbers go on as if nothing had been asked."""
        if self._answering is None or not self._writes:
            return
        card = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else []
        try:
            with torch.random.fork_rng(devices=card):
                answers = self._answering.answers(model, MOST_S)
        except (
            Exception
        ) as error:  # of a model that cannot generate, or for want of memory: training needs no samples
            told = str(error).strip().partition("\n")[0]
            say(f"no samples: the model could not answer ({type(error).__name__}: {told})")
            self._answering = None
            return
        lines = [
            _line(
                {
                    "step": step,
                    "prompt": asked.question,
                    "answer": answer.text,
                    "ended": answer.ended,
                    "expected": asked.expected,
                }
            )
            for asked, answer in zip(self._answering.asked, answers, strict=True)
        ]
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))


def room_for_prompt(count: int, tokens: int, most_tokens: int, context: int | None) -> int:
    """Tokens that each of `count` prompts may have: all of them with their answers need no more than a forward pass of
    `most_tokens`, which training makes anyway."""
    room = most_tokens // max(1, count) - tokens
    return room if context is None else min(room, context - tokens)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
