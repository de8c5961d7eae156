"""Layers whose queries see a window: what it has gone past is given back where memory is short, and every answer has the same bits."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import tiny_bundle, with_peft
from support.resident import resident_bytes

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")
GREEDY = Sampling(temperature=0)
WINDOW, CONTEXT = 24, 512
MIXED: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "gemma3": MIXED,
    "gpt_oss": MIXED,
}


@dataclass(frozen=True)
class Made:
    family: str
    model: Path
    bundle: Bundle


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family: str = request.param
    model, _, bundle = tiny_bundle(tmp_path_factory.mktemp(family), family, **FAMILIES[family])
    return Made(family, model, bundle)


def opened(made: Made, tokens: int, **options: Any) -> Engine:
    """With memory for so many tokens in all layers."""
    kv_bytes = tokens * made.bundle.decoder.cache_bytes_per_token()
    options = {"threads": 1, "max_rows": 8, "prefill_chunk": 64, "replay_golden": False, **options}
    return Engine.open(made.bundle, kv_bytes=kv_bytes, **options)


def test_the_bundle_says_which_layers_have_windows(made: Made) -> None:
    windows = [layer.window for layer in made.bundle.decoder.cache]
    assert windows == ([WINDOW, WINDOW] if made.family == "mistral" else [WINDOW, None])


def mixed(random: Random, count: int) -> list[Request]:
    found = []
    for _ in range(count):
        prompt = [7] * random.choice((0, 40, 200)) + random.choices(range(70, 300), k=random.randint(1, 60))
        request = Request(
            tuple(prompt),
            BASE,
            Sampling(temperature=random.choice((0.0, 1.0)), seed=random.randint(0, 9)),
            max_tokens=random.choice((3, 40, 200)),
            logprobs=2,
            tenant=random.choice("ab"),
            prompt_logprobs=random.choice((None, None, None, 0)),
        )
        if random.random() < 0.15:
            request = replace(request, sampling=GREEDY, beams=Beams(2), logprobs=None, prompt_logprobs=None)
        found.append(request)
    return found


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_the_same_bits_however_little_memory_there_is(made: Made, kernels: str, tmp_path: Path) -> None:
    """Alone in an engine with room for all; and in one that is short of memory, with a disk for what is idle and without."""
    requests = mixed(Random(1), 24)
    with closing(opened(made, 8 * CONTEXT, kernels=kernels)) as engine:
        expected = engine.generate_all(requests)
        assert engine.stats().slid_bytes == 0, "there was room"
    for disk in (None, tmp_path):
        with closing(opened(made, 1024, kernels=kernels, kv_disk=disk)) as engine:
            answers = engine.generate_all(requests[:12]) + engine.generate_all(requests[12:])
            stats = engine.stats()
            assert stats.slid_bytes > 0
            assert resident_bytes(engine._cache._memory) == stats.kv_resident_bytes
            assert stats.kv_resident_bytes <= 1024 * made.bundle.decoder.cache_bytes_per_token()
        assert answers == expected


def test_transformers_says_the_same_behind_what_was_given_back(made: Made) -> None:
    """Two long answers in memory for one and a half: with windows neither is preempted."""
    with closing(opened(made, 700)) as engine:
        prompts = [tuple(Random(seed).choices(range(70, 300), k=20)) for seed in (1, 2)]
        answers = engine.generate_all(
            [Request(one, BASE, GREEDY, max_tokens=450, logprobs=3) for one in prompts]
        )
        stats = engine.stats()
    assert stats.slid_bytes > 0
    if made.family == "mistral":
        assert stats.preempted == 0
    model = with_peft(made.model, None)
    for prompt, answer in zip(prompts, answers, strict=True):
        text = [*prompt, *(token.id for token in answer)]
        with torch.no_grad():
            expected = log_softmax(model(torch.tensor([text[:-1]])).logits[0, len(prompt) - 1 :].numpy())
        found = np.array([token.logprob for token in answer])
        assert np.abs(expected[np.arange(len(found)), text[len(prompt) :]] - found).max() < 1e-3


def test_what_was_given_back_is_no_beginning_for_others(made: Made) -> None:
    """A long conversation lets its windows go; another that begins alike is computed, one that goes on behind its end is found."""
    random = Random(3)
    long = tuple(random.choices(range(70, 300), k=430))
    fork, on = (*long[:200], 5, 6), (*long, 5, 6)
    with closing(opened(made, 8 * CONTEXT)) as engine:
        expected = [
            engine.generate_all([Request(one, BASE, GREEDY, max_tokens=4, logprobs=2)])[0]
            for one in (fork, on)
        ]
    with closing(opened(made, 700)) as engine:
        engine.generate_all([Request(long, BASE, GREEDY, max_tokens=2)])
        engine.generate_all(
            [Request(tuple(random.choices(range(70, 300), k=300)), BASE, GREEDY, max_tokens=2)]
        )
        assert engine.stats().slid_bytes > 0
        before = engine.stats().reused
        found = [
            engine.generate_all([Request(one, BASE, GREEDY, max_tokens=4, logprobs=2)])[0]
            for one in (on, fork)
        ]
        assert found == expected[::-1]
        if made.family == "mistral":
            assert engine.stats().reused - before in (430, 430 + 200), "the end is there"
