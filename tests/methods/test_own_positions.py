"""What begins with the training's rows begins with their tokens: padding counts for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models
from support.seq2seq_models import build_seq2seq
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from ptune.methods.lora import Lora

LENGTHS = [(5, 4), (9, 9), (3, 6), (9, 2)]  # of sources and targets


def rows(lengths: list[int], longer: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and where they are; `longer` more positions than they need."""
    ids = torch.full((len(lengths), max(lengths) + longer), pad)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 200, (length,), generator=torch.Generator().manual_seed(row))
    return ids, (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()


def begun(model: Any, init: Any, longer: int) -> dict[str, torch.Tensor]:
    """The factors that a method begins with, of rows that are padded by `longer` more than they need."""
    torch.manual_seed(0)
    adapted = Lora(r=3, init=init).apply(model, (), ()).eval()
    pad = model.config.pad_token_id
    ids, mask = rows([source for source, _ in LENGTHS], longer, pad)
    given = {"input_ids": ids, "attention_mask": mask}
    wanted = mask.bool() if not model.config.is_encoder_decoder else None
    if wanted is None:
        written, there = rows([target for _, target in LENGTHS], longer, pad)
        given["decoder_input_ids"], wanted = written, there.bool()

    def run() -> torch.Tensor:
        logits = adapted(**given).logits
        return logits.sum() / 9 if logits.dim() == 2 else logits[wanted].logsumexp(-1).mean()

    Lora(r=3, init=init).calibrate(adapted, [run, run])
    return {name: one.detach() for name, one in adapted.named_parameters() if ".lora_" in name}


def loaded(kind: str, folder: Path) -> Any:
    torch.manual_seed(1)  # a new head
    if kind == "bert":
        tiny_models.build_encoder(folder, kind)
        return AutoModelForSequenceClassification.from_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(build_seq2seq(folder, kind))


@pytest.mark.parametrize("init", ["eva", "corda", "lora_ga"])
@pytest.mark.parametrize("kind", ["bert", "bart", "t5"])
def test_padding_counts_for_nothing(kind: str, init: str, tmp_path: Path) -> None:
    plain, padded = (begun(loaded(kind, tmp_path / str(longer)), init, longer) for longer in (0, 7))
    assert plain
    for name, one in plain.items():
        # directions are alike up to their signs
        assert (one.abs() - padded[name].abs()).abs().max() <= 2e-2 * one.abs().max(), name
