"""Asks a model that writes: a chat run, or a translator that is one."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.config.translation import Translation
from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Completion, Document, Judged, Preferred, recognise
from ptune.errors import DataError, UsageError
from ptune.evaluation.asking.question import Question, Said, Side
from ptune.evaluation.evaluate import backbone_of, models_of
from ptune.formats.run import Run
from ptune.tasks.chat.greedy import greedy
from ptune.tasks.translation.infer import most_tokens
from ptune.training.layers.adapter_off import adapter_off


@dataclass(frozen=True)
class Writer:
    """See `Asker`. Greedy, so that the same question gets the same answer. With an adapter both models are one."""

    base: torch.nn.Module
    tuned: torch.nn.Module
    codec: ChatCodec
    translates: bool
    plain: bool
    """Whether the run learnt texts as they stand, without a chat template."""

    def __call__(self, side: Side, question: Question) -> Said:
        """What a side writes. Raises: TemplateError; UsageError for a prompt that leaves no room for an answer."""
        prompt = self._prompt(question.text)
        most = question.max_tokens
        if self.translates:
            most = min(most, most_tokens(self.codec, question.text))
        if self.codec.context is not None:
            most = min(most, self.codec.context - len(prompt))
            if most < 1:
                raise UsageError(
                    f"the prompt has {len(prompt):,} tokens, and the model takes {self.codec.context:,}: shorten it"
                )
        model = self.base if side == "base" else self.tuned
        with adapter_off(model) if side == "base" else nullcontext():
            ids, seconds = _written(model, prompt, self.codec.eos_ids, most, question.max_s)
        return Said(self._read(prompt, ids), note=_cut(ids, self.codec.eos_ids, most, seconds))

    def _prompt(self, text: str) -> list[int]:
        if self.plain:
            return self.codec.encode_text(text)
        return self.codec.encode_prompt([{"role": "user", "content": text}])

    def _read(self, prompt: list[int], ids: list[int]) -> str:
        end = next((at for at, token in enumerate(ids) if token in self.codec.eos_ids), len(ids))
        text = self.codec.decode_answer(ids[:end]).strip()
        reading = self.codec.reading(prompt) if self.translates else None
        return text if reading is None else reading.said(text)


def of_run(run: Run) -> Writer:
    """Loads base and tuned model of a run. Raises: FormatError if it has not finished; BackboneError."""
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    codec = ChatCodec.open(run.codec_path)
    base, tuned = models_of(run, record, recipe)
    base.eval()
    tuned.eval()
    translates = isinstance(recipe.task, Translation)
    return Writer(base, tuned, codec, translates, codec.template is None or _learnt_plain(run, recipe))


@torch.no_grad()
def _written(
    model: torch.nn.Module, prompt: list[int], ends: frozenset[int], most: int, max_s: float
) -> tuple[list[int], float]:
    """Tokens that the model writes after a prompt, and how many seconds it took."""
    began, config = time.monotonic(), greedy(ends, most, max_s)
    ids = torch.tensor([prompt], device=backbone_of(model).device)
    writes: Any = model
    output = writes.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return output[0, len(prompt) :].tolist(), time.monotonic() - began


def _cut(ids: list[int], ends: frozenset[int], most: int, seconds: float) -> str:
    """Why an answer stops where it does, if it did not come to its end."""
    if not ends.isdisjoint(ids):
        return ""
    return f"cut after {most:,} tokens" if len(ids) >= most else f"cut after {seconds:.0f} s"


def _learnt_plain(run: Run, recipe: Recipe) -> bool:
    """Whether the first row of a run's data is text without messages; False where the data is gone."""
    task = recipe.task
    if not isinstance(task, Chat):
        return False
    try:
        for path in recipe.data.files:
            reader = reader_of(path)
            if reader is None:
                return False
            for row in reader.rows(Problems(str(path), reader.unit)):
                if isinstance(task, Reinforcement):
                    return isinstance(row.value.get(task.columns.named.get("prompt", "prompt")), str)
                return _is_plain(recognise(row.value, shapes_of(task)).converted(row.value))
    except (DataError, OSError):
        return False
    return False


def _is_plain(row: object) -> bool:
    if isinstance(row, Preferred):
        row = row.chosen
    if isinstance(row, Judged):
        row = row.answered
    return isinstance(row, Completion | Document)
