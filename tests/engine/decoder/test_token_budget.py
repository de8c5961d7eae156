"""The step-time model: learnt from steps whose true cost is known."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.decoder.token_budget import LEAST, OUTLIER, StepTimeModel
from ptune.engine.sampling import Sampling

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


seconds = st.floats(1e-4, 10)


def taught(model: StepTimeModel, base: float, slope: float, generating: int = 4, steps: int = 40) -> int:
    """Steps of a machine with that cost, each as large as the model allows; how large the last one was."""
    prompt = 0
    for number in range(steps):
        prompt = model.prompt_tokens(generating) if number % 3 else 0
        model.observe(generating + prompt, base + slope * (generating + prompt), prompts=prompt > 0)
    return model.prompt_tokens(generating)


@given(base=seconds, slope=st.floats(1e-6, 0.1), target=seconds, most=st.integers(1, 2048))
def test_a_step_takes_what_it_should_where_limits_allow(
    base: float, slope: float, target: float, most: int
) -> None:
    tokens = taught(StepTimeModel(target, most), base, slope)
    assert min(LEAST, most) <= tokens <= most
    took = base + slope * (4 + tokens)
    if min(LEAST, most) < tokens:
        assert took <= target * 1.01
    if tokens < most:
        assert base + slope * (4 + tokens + 2) >= target * 0.99 or tokens == LEAST


@given(target=seconds, most=st.integers(1, 2048), costs=st.lists(st.tuples(st.integers(1, 99), seconds)))
def test_whatever_is_measured_it_stays_within_its_limits(
    target: float, most: int, costs: list[tuple[int, float]]
) -> None:
    model = StepTimeModel(target, most)
    for number, (tokens, took) in enumerate(costs):
        model.observe(tokens, took, prompts=number % 2 == 0)
        assert min(LEAST, most) <= model.prompt_tokens(3) <= most
        assert model.prompt_tokens(0) == most, "nobody would wait"


def test_without_a_target_chunks_are_whole() -> None:
    assert taught(StepTimeModel(None, 256), 10, 10) == 256


def test_before_anything_is_known_chunks_are_whole() -> None:
    assert StepTimeModel(0.2, 256).prompt_tokens(1) == 256


def test_a_machine_that_becomes_slower_gets_smaller_chunks() -> None:
    model = StepTimeModel(0.2, 1024)
    before = taught(model, 0.02, 0.0005)
    after = taught(model, 0.02, 0.002)
    assert before == pytest.approx(356, abs=3)
    assert after == pytest.approx(86, abs=3)


def test_one_step_that_hung_does_not_stop_the_prompts() -> None:
    model = StepTimeModel(0.2, 1024)
    before = taught(model, 0.02, 0.0005)
    model.observe(before + 4, 60.0, prompts=True)
    assert model.prompt_tokens(4) > before / OUTLIER


def test_what_a_prompt_costs_is_not_forgotten_while_there_is_none() -> None:
    model = StepTimeModel(0.2, 1024)
    before = taught(model, 0.02, 0.0005)
    for _ in range(10_000):
        model.observe(4, 0.022, prompts=False)
    assert model.prompt_tokens(4) == pytest.approx(before, abs=3)


def test_the_scheduler_cuts_prompts_by_the_durations_that_it_is_told() -> None:
    scheduler = Scheduler(4, prefill_chunk=256, max_waiting=9, step_s=0.2)
    generating = TokenSequence([-1])
    scheduler.submit(generating)
    scheduler.submit(TokenSequence(list(range(5000))))
    counts = []
    for _ in range(60):
        chunks = scheduler.plan()
        tokens = sum(map(len, chunks))
        scheduler.computed(chunks, 0.05 + 0.001 * tokens)
        counts.append(tokens - 1)
        generating.tokens.append(-1)
    assert counts[0] == 256
    assert 140 <= counts[20] <= 200
    assert max(counts[20:30]) <= 200


def test_answers_are_the_same_bits_at_any_pace(tiny: TinyBundle) -> None:
    """A long prompt beside a sequence that is generating: whole, and in the smallest pieces."""
    requests = [
        Request((5, 6, 7), sampling=Sampling(temperature=0), max_tokens=60, logprobs=2),
        Request(tuple(range(10, 400)), sampling=Sampling(temperature=0), max_tokens=5, logprobs=2),
    ]
    found, steps = [], []
    for step_ms in (0.0, 1e-6):
        with closing(Engine.open(tiny.folder, threads=1, step_ms=step_ms, replay_golden=False)) as engine:
            engine.generate_all([Request(tuple(range(300)), max_tokens=1)])  # what a prompt costs is known
            before = engine.stats().steps
            found.append(engine.generate_all(requests))
            steps.append(engine.stats().steps - before)
    assert found[0] == found[1]
    assert steps[1] >= 12
