"""Predictions of a finished run for texts and words in torch: the reference that everything else is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from ptune.backbone.classifier import load_classifier
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.data.examples.sequences import example_of
from ptune.data.shapes.labelled import LabelledRow
from ptune.formats.run import Run
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.train import Loss, SequenceObjective
from ptune.training.rows.padding import padded_rows

Logits: TypeAlias = NDArray[np.float32]
Tell: TypeAlias = Callable[[int], object]
"""Callback: receives the number of further rows done, e.g. `Progress.advance`."""
Predictor: TypeAlias = Callable[[Sequence[LabelledRow], Tell], list[Logits]]
"""Rows -> the logits of each: [labels], or [words, labels] without words that were cut off; of steps likewise."""
_BATCH_TOKENS = 4096


def text_predictor(run: Run, device: torch.device | str | None = None) -> Predictor:
    """The predictor of a run on texts or words. Raises: FormatError if nothing was trained yet; BackboneError."""
    return TextPredictor(load_trained(run, device), SequenceCodec.open(run.codec_path), Facts.of_run(run))


def load_trained(run: Run, device: torch.device | str | None = None, attention: str = "sdpa") -> nn.Module:
    """The trained model of a run on texts or words, in eval mode: model/, or the base with adapter/.

    Raises: FormatError; BackboneError, also if the base is no longer the one that was trained on.
    """
    facts, recipe = Facts.of_run(run), Recipe.load(run.recipe_path)
    backbone = recipe.backbone if run.has_adapter else recipe.backbone.saved_at(run.model_path)
    backbone = backbone.model_copy(update={"dtype": run.record().base.dtype})
    kind: Literal["text", "tokens"] = "tokens" if facts.problem == "tags" else "text"
    loaded = load_classifier(backbone, kind, facts.named, device=device, attention=attention)
    facts.check_base(run, loaded.identity)
    model = loaded.model
    return (PeftModel.from_pretrained(model, str(run.adapter_path)) if run.has_adapter else model).eval()


@dataclass(frozen=True)
class TextPredictor:
    """See `Predictor`. Rows of similar length share a forward pass."""

    model: nn.Module
    codec: SequenceCodec
    facts: Facts
    batch_tokens: int = _BATCH_TOKENS
    _objective: SequenceObjective = field(init=False)

    def __post_init__(self) -> None:
        device = next(self.model.parameters()).device
        objective = SequenceObjective(
            Loss(self.facts.named), self.batch_tokens, device, self.codec.pad_id, self.codec.type_ids
        )
        object.__setattr__(self, "_objective", objective)

    @torch.no_grad()
    def __call__(self, rows: Sequence[LabelledRow], tell: Tell) -> list[Logits]:
        limit = self.facts.max_length or self.codec.limit(None) or 512
        facts, codec = self.facts, self.codec
        examples = [example_of(row, facts.named, codec, limit, facts.step_separator)[0] for row in rows]
        by_index: dict[int, Logits] = {}
        for indices in padded_rows([len(example) for example in examples], self.batch_tokens):
            (batch,) = self._objective.batches([examples[index] for index in indices])
            # The batch keeps the order of `indices`, which are already sorted by length.
            logits = self._objective.logits(self.model, batch).float().cpu().numpy()
            counts = [self._rows_of(examples[index]) for index in indices]
            for index, part in zip(indices, np.split(logits, np.cumsum(counts)[:-1]), strict=True):
                by_index[index] = part if self.facts.problem == "tags" else part[0]
            tell(len(indices))
        return [by_index[index] for index in range(len(rows))]

    def _rows_of(self, example: Any) -> int:
        return len(example.words) if self.facts.problem == "tags" else 1
