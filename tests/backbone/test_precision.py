"""`auto` is what the device is seen to be fast in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from ptune.backbone import precision
from ptune.backbone.load import resolve_dtype, training_dtype
from ptune.config.recipe import Backbone

CPU = torch.device("cpu")


def published(folder: Path, dtype: str) -> Backbone:
    """A model whose config says what its weights were saved in."""
    LlamaConfig(dtype=dtype).save_pretrained(folder / dtype)
    return Backbone(model=str(folder / dtype))


@pytest.mark.parametrize(("seconds", "dtype"), [(0.7, torch.bfloat16), (0.9, torch.float32)])
def test_bfloat16_has_to_be_worth_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, dtype: torch.dtype
) -> None:
    """`seconds` is what a step in bfloat16 takes where one in float32 takes 1."""
    monkeypatch.setattr(precision, "_block", lambda _device, dtype: dtype)
    monkeypatch.setattr(precision, "_seconds", lambda run: seconds if run is torch.bfloat16 else 1.0)
    precision._measured.cache_clear()
    try:
        assert training_dtype(published(tmp_path, "bfloat16"), CPU) is dtype
        assert (
            training_dtype(published(tmp_path, "float32"), CPU) is torch.float32
        )  # nothing is rounded unasked
        assert training_dtype(Backbone(dtype="float32"), CPU) is torch.float32
        assert training_dtype(Backbone(dtype="bfloat16"), CPU) is torch.bfloat16
        assert resolve_dtype(Backbone(), CPU) is torch.float32  # nothing is measured where nothing is trained
    finally:
        precision._measured.cache_clear()


def test_the_measured_block_runs_in_both_types() -> None:
    precision._measured.cache_clear()
    with torch.no_grad():  # wherever it is asked
        assert precision.bfloat16_gain(CPU) > 0


@pytest.mark.parametrize(
    ("capability", "bfloat16", "dtype"),
    [
        ((6, 1), False, torch.float32),
        ((7, 0), False, torch.float16),
        ((7, 5), False, torch.float16),
        ((8, 0), True, torch.bfloat16),
        ((9, 0), True, torch.bfloat16),
    ],
)
def test_a_card_takes_the_type_it_has_units_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bfloat16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
    card = torch.device("cuda")
    assert training_dtype(Backbone(), card) is dtype
    assert training_dtype(Backbone(dtype="float32"), card) is torch.float32
    assert resolve_dtype(Backbone(), card) is not torch.float16  # what nothing watches for overflow
