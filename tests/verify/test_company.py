"""The hop "alone → in company" finds faults that make an answer depend on its neighbours or on how it was cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import tiny_bundle
from support.tiny_models import VOCAB
from torch import Tensor, nn

from ptune.engine.decoder import step
from ptune.engine.decoder.inputs import attention_metadata
from ptune.engine.decoder.inputs.batch_layout import BatchLayoutCache
from ptune.engine.decoder.inputs.flat_tokens import Tokens
from ptune.engine.decoder.request import NO_TOKEN, Token
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence
from ptune.export.decoder import trace as tracing
from ptune.formats.bundle import BASE, FP32, Bundle
from ptune.verify.decoder import company

LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    },
}  # fmt: skip
Patch = pytest.MonkeyPatch
PROMPT = 48  # tokens of each prompt that the hop takes


def held() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(5, VOCAB, 60).tolist() for _ in range(8)]


def passed(bundle: Bundle) -> bool:
    hop = company.hop(bundle, FP32, held(), threads=1)
    preempted = re.search(r"(\d+) preempted", hop.note)
    assert preempted is not None, hop.note
    assert int(preempted[1]) >= 8, hop.note
    assert hop.passed == hop.note.endswith("moved by 0")
    return hop.passed


def unguarded(patch: Patch, fault: Callable[[Tensor], Tensor]) -> None:
    """Lets the exporter write a graph with a fault that its own search would refuse."""
    skeleton = tracing.skeleton

    def make(*args: Any, **kwargs: Any) -> nn.Module:
        built = skeleton(*args, **kwargs)
        built.model.norm.register_forward_pre_hook(lambda _, inputs: (fault(inputs[0]),))
        return built

    patch.setattr(tracing, "skeleton", make)
    patch.setattr(tracing, "check_independent", lambda *_: None)


def longrope_by_step(folder: Path, patch: Patch) -> Bundle:
    patch.setattr(tracing, "with_fixed_rope", lambda config: config)
    patch.setattr(tracing, "drop_choice_by_length", lambda _: None)
    patch.setattr(tracing, "check_independent", lambda *_: None)
    patch.setattr("ptune.backbone.load.with_fixed_rope", lambda config, _: config)
    return tiny_bundle(folder, "phi3", **LONGROPE)[2]


def centred_over_tokens(folder: Path, patch: Patch) -> Bundle:
    unguarded(patch, lambda x: x - x.mean(1, keepdim=True))
    return tiny_bundle(folder, "llama")[2]


def scaled_by_the_largest(folder: Path, patch: Patch) -> Bundle:
    unguarded(patch, lambda x: x + x / x.abs().max() * torch.arange(x.shape[-1]))
    return tiny_bundle(folder, "llama")[2]


def positions_of_chunks(folder: Path, patch: Patch) -> Bundle:
    """Every chunk begins at position 0 again."""
    right = Tokens.positions
    patch.setattr(Tokens, "positions", lambda self, start: right(self, np.where(self.size > 1, 0, start)))
    return tiny_bundle(folder, "llama")[2]


def one_query_alone(folder: Path, patch: Patch) -> Bundle:
    """A single query has a kernel of its own in onnxruntime, which rounds otherwise."""
    patch.setattr(attention_metadata, "FEW", 0)
    own = BatchLayoutCache
    patch.setattr(step, "BatchLayoutCache", lambda demands: own(replace(demands, least_queries=1)))
    return tiny_bundle(folder, "llama")[2]


def resumed_without_its_answer(folder: Path, patch: Patch) -> Bundle:
    """A preempted sequence is computed again from its prompt, its answer so far forgotten but for the last token."""
    preempt = Scheduler._preempt

    def forget(self: Scheduler, sequence: TokenSequence) -> None:
        preempt(self, sequence)
        if len(sequence.tokens) > PROMPT + 1:
            sequence.tokens[PROMPT] = sequence.tokens[-1]

    patch.setattr(Scheduler, "_preempt", forget)
    return tiny_bundle(folder, "llama")[2]


@pytest.mark.parametrize(
    "plant",
    [
        longrope_by_step,
        centred_over_tokens,
        scaled_by_the_largest,
        positions_of_chunks,
        one_query_alone,
        resumed_without_its_answer,
    ],
)
def test_a_planted_fault_is_caught(plant: Callable[[Path, Patch], Bundle], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert not passed(plant(tmp_path, patch))


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("phi3", LONGROPE), ("gemma2", {})])
def test_without_a_fault_it_passes(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    assert passed(tiny_bundle(tmp_path, family, **changes)[2])


ANSWER = [Token(7, -0.5), Token(8, -1.0), Token(9, -1.5, finish="length")]
ENDED = Token(NO_TOKEN, finish="error", error="no memory")


@pytest.mark.parametrize(
    ("crowded", "passed"),
    [
        (ANSWER, True),
        (ANSWER[:2], False),
        ([ANSWER[0], ENDED], False),
        ([ENDED], False),
        ([*ANSWER[:2], Token(9, float("nan"))], False),
    ],
    ids=["the same", "cut", "an error on the way", "an error at once", "no number"],
)
@pytest.mark.parametrize("name", [BASE, "own"])
def test_an_answer_that_ends_early_in_company_is_another_one(
    name: str, crowded: list[Token], passed: bool
) -> None:
    hop = company._compared(FP32, [name, name], [ANSWER] * 2, [ANSWER, crowded], 0.0, "")
    assert hop.passed is passed


def test_a_request_for_nothing_is_the_same_nothing() -> None:
    nothing = [Token(NO_TOKEN, finish="length")]
    assert company._compared(FP32, [BASE] * 2, [ANSWER, nothing], [ANSWER, nothing], 0.0, "").passed
    assert not company._compared(FP32, [BASE], [ANSWER], [ANSWER], float("nan"), "").passed
