"""The loss is torch's cross-entropy at the last token of each step, as TRL's trainer has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForTokenClassification, AutoTokenizer

from ptune.backbone.classifier import load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Backbone, Data
from ptune.data.examples.sequences import encoded
from ptune.data.label_splits import read_splits
from ptune.tasks.encoder.train import Loss, SequenceObjective

from .conftest import rows, write

LABELS = Labels(("wrong", "right"), "tags")


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("last_only", [False, True])
def test_loss_and_targets(kit: Path, kind: str, last_only: bool, tmp_path: Path) -> None:
    made = rows(12, 3)
    path = write(tmp_path / "train.jsonl", made)
    task = ProcessReward(train_on_last_step_only=last_only, step_separator=";")
    data = Data(files=(path,), validation=(write(tmp_path / "validation.jsonl", rows(4, 4)),))
    splits = read_splits(data, task, 0)
    splits.check()
    codec = load_sequence_codec(Backbone(model=str(kit / kind)))
    examples = encoded(splits, data, task, codec)
    model = AutoModelForTokenClassification.from_pretrained(kit / kind, num_labels=2).eval().double()
    objective = SequenceObjective(Loss(LABELS), 10_000, torch.device("cpu"), codec.pad_id, codec.type_ids)
    (batch,) = objective.batches(examples.train)
    score = objective.score(model, batch)

    tokenizer = AutoTokenizer.from_pretrained(kit / kind)
    sums, count = 0.0, 0
    for row in made:
        ids, labels = _tokens(tokenizer, row, last_only=last_only)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        sums += float(F.cross_entropy(logits, torch.tensor(labels), ignore_index=-100, reduction="sum"))
        count += sum(label != -100 for label in labels)
    assert score.targets == count == (12 if last_only else sum(len(row["labels"]) for row in made))
    assert float(score.loss) == pytest.approx(sums, rel=1e-9)
    held = sum(len(example.words) for example in examples.validation)
    assert held == sum(
        len(row["labels"]) for row in rows(4, 4)
    )  # all steps are judged where nothing is learnt


def _tokens(tokenizer: Any, row: dict[str, Any], *, last_only: bool) -> tuple[list[int], list[int]]:
    """Tokens and labels by hand, with what the tokenizer puts around any text."""

    def alone(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids = alone(row["prompt"])
    labels = [-100] * len(ids)
    for at, (step, verdict) in enumerate(zip(row["completions"], row["labels"], strict=True)):
        piece = alone(step) + alone(";")
        ids += piece
        judged = not last_only or at + 1 == len(row["labels"])
        labels += [-100] * (len(piece) - 1) + [int(verdict) if judged else -100]
    if tokenizer.cls_token_id is not None:
        return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], [-100, *labels, -100]
    return [tokenizer.bos_token_id, *ids], [-100, *labels]
