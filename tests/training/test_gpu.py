"""What a GPU is told before a run. No GPU is needed: torch keeps these settings without one."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from ptune.training.gpu import repeatable

CARD = torch.device("cuda")


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


def test_a_card_repeats_its_bits_within_the_block_only() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with repeatable(CARD):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.get_float32_matmul_precision() == "highest"
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (
                ":4096:8",
                ":16:8",
            )  # the two that cuBLAS documents
            assert "expandable_segments:True" in os.environ["PYTORCH_ALLOC_CONF"]
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_other_devices_are_left_alone() -> None:
    with repeatable(torch.device("cpu")) as unrepeatable:
        assert not torch.are_deterministic_algorithms_enabled()
    assert unrepeatable == []
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_users_own_settings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    with repeatable(CARD):
        assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:128"


def test_operations_without_a_repeatable_form_are_named_once() -> None:
    """torch warns of those of a CPU, too, in the same words; putting values by index without adding is one."""
    with repeatable(CARD) as unrepeatable:
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert unrepeatable == ["put_"]


def test_other_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: print(message)
        with repeatable(CARD):
            warnings.warn("something else", stacklevel=1)
    assert capsys.readouterr().out == "something else\n"
