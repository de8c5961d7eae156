"""The engine with a model some of whose layers keep states: LFM2's short convolutions beside attention.

What it says is compared with transformers and peft; what company, cancelling, preemption and found beginnings leave of it with itself
alone, to the bit.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.fake_chat_model import wait_until
from support.prompt_adapters import save_prompt
from support.resident import resident_bytes
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request, Token
from ptune.engine.decoder.session import Session
from ptune.engine.sampling import Sampling
from ptune.errors import AdapterError, UsageError
from ptune.formats.bundle import BASE, Bundle

GREEDY = Sampling(temperature=0)
LIMIT = 5e-4


@dataclass
class Made:
    """A bundle with an adapter, and what transformers and peft make of both."""

    bundle: Bundle
    base: Path
    models: dict[str, torch.nn.Module]

    def greedy(self, prompt: list[int], name: str, count: int) -> list[int]:
        tokens = [*prompt]
        for _ in range(count):
            with torch.no_grad():
                tokens.append(int(self.models[name](torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("hybrid")
    base, _, bundle = tiny_bundle(folder, "lfm2")
    lora = peft_folder(base, folder / "lora", seed=1, spread=0.2)
    install(bundle, lora, "lora")
    return Made(
        Bundle.open(bundle.folder), base, {BASE: with_peft(base, None), "lora": with_peft(base, lora)}
    )


def opened(made: Made, **options: Any) -> Engine:
    return Engine.open(made.bundle, **{"threads": 1, "replay_golden": False, "prefill_chunk": 24, **options})


@pytest.fixture
def engine(made: Made) -> Iterator[Engine]:
    with closing(opened(made, max_rows=4)) as there:
        yield there


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(70, VOCAB, length).tolist() for length in lengths]


def asked(prompt: list[int], name: str = BASE, count: int = 8, **fields: Any) -> Request:
    return Request(tuple(prompt), name, GREEDY, max_tokens=count, logprobs=0, **fields)


def said(answer: list[Token]) -> list[tuple[int, float | None]]:
    return [(token.id, token.logprob) for token in answer]


def test_greedy_tokens_are_those_of_transformers_and_peft(made: Made, engine: Engine) -> None:
    ids = prompts(31, 3, 50, 1, 26)
    names = [BASE, "lora", "lora", BASE, "lora"]
    requests = [asked(prompt, name) for prompt, name in zip(ids, names, strict=True)]
    expected = [made.greedy(prompt, name, 8) for prompt, name in zip(ids, names, strict=True)]
    for _ in range(2):  # the second time from what is kept
        found = engine.generate_all(requests)
        assert [[token.id for token in answer] for answer in found] == expected


def test_a_kept_beginning_has_the_same_bits(made: Made, engine: Engine) -> None:
    """The next turn of a chat, an answer that is rendered otherwise, the same prompt again, and prompts that only begin alike."""
    start, *ends = prompts(60, 20, 30, 25)
    [first] = engine.generate_all([asked(start)])
    turn = [*start, *(token.id for token in first), *ends[0]]
    asks = [turn, [*start, 7, *ends[0]], start, *([*start[:40], *end] for end in ends)]
    found, reused = [], []
    for prompt in asks:
        before = engine.stats().reused
        found += engine.generate_all([asked(prompt)])
        reused.append(engine.stats().reused - before)
    # All that was computed; the prompt to its last token, twice; where prompts part, once it was seen that they do.
    assert reused == [67, 59, 59, 0, 40, 40]
    for prompt, answer in zip(asks, found, strict=True):
        with closing(opened(made)) as alone:
            assert said(alone.generate_all([asked(prompt)])[0]) == said(answer)


def test_choices_of_one_prompt_compute_it_once(made: Made, engine: Engine) -> None:
    [prompt] = prompts(70)
    choices = [replace(asked(prompt), sampling=Sampling(seed=seed)) for seed in range(3)]
    found = engine.generate_all(choices)
    assert engine.stats().reused == 2 * 69
    assert len({tuple(token.id for token in answer) for answer in found}) > 1
    with closing(opened(made)) as alone:
        assert [said(alone.generate_all([choice])[0]) for choice in choices] == [said(one) for one in found]


def test_a_cancelled_prompt_leaves_nothing_to_the_next(made: Made, engine: Engine) -> None:
    short, long = prompts(30, 400)
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    ticket = engine.submit(asked(long, "lora", 50), tokens.put)
    other = engine.generate(asked(short))
    wait_until(lambda: engine.stats().tokens > 0)
    ticket.cancel()
    assert [token.id for token in other] == made.greedy(short, BASE, 8)
    for name in (BASE, "lora"):
        (found,) = engine.logits([short], [name])
        with torch.no_grad():
            expected = made.models[name](torch.tensor([short])).logits[0].numpy()
        np.testing.assert_allclose(found, expected, atol=LIMIT)
    wait_until(lambda: engine.stats().kv_used_tokens == 0)


def test_a_failed_step_is_computed_again_from_the_beginning(
    made: Made, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had gone on with some states, and nobody knows with which."""
    real, calls = Session.run, []

    def fails(self: Session, inputs: Any, caches: Any, *arrays: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            for name, array in caches.items():
                if "state" in name:
                    array += 1.0
            raise RuntimeError("no memory")
        real(self, inputs, caches, *arrays)

    [prompt, other] = prompts(40, 22)
    assert len(engine.generate_all([asked(prompt)])[0]) == 8
    monkeypatch.setattr(Session, "run", fails)
    assert engine.generate_all([asked(other)])[0][-1].finish == "error"
    for one in (prompt, other):
        assert [token.id for token in engine.generate(asked(one))] == made.greedy(one, BASE, 8)


def mixed(random: Random, count: int) -> list[Request]:
    """Of three tenants, some of which begin alike."""
    return [
        asked(
            [7] * random.choice((0, 40, 120))
            + [random.randrange(5, VOCAB) for _ in range(random.randint(1, 50))],
            random.choice((BASE, BASE, "lora")),
            random.choice((2, 15, 40)),
            tenant=random.choice("abc"),
        )
        for _ in range(count)
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")
def test_each_is_answered_as_alone_though_few_fit(made: Made) -> None:
    signature = made.bundle.decoder
    requests = mixed(Random(1), 24)
    with closing(opened(made, max_rows=1)) as engine:
        alone = [engine.generate_all([request])[0] for request in requests]
    most = 700 * signature.cache_bytes_per_token() + 24 * signature.state_bytes()
    with closing(opened(made, max_rows=12, kv_bytes=most)) as engine:
        assert (engine._cache.slots, engine._cache.states.snapshots) == (12, range(12, 24))
        crowded = engine.generate_all(requests)
        stats = engine.stats()
        assert stats.preempted > 0
        assert stats.reused > 0
        there = resident_bytes(engine._cache._memory) + resident_bytes(engine._cache.states._memory)
        assert 0 < there <= most
        assert stats.kv_resident_bytes <= most
    for request, expected, found in zip(requests, alone, crowded, strict=True):
        assert [token.id for token in found] == [token.id for token in expected]
        if request.adapter == BASE:
            assert said(found) == said(expected), "the same bits"


def test_beams_find_what_those_of_transformers_find(made: Made) -> None:
    ids, beams = prompts(13, 40), Beams(3, 2.0)
    requests = [replace(asked(prompt), beams=beams, logprobs=None) for prompt in ids]
    with closing(opened(made, max_rows=7)) as engine:
        found = engine.generate_all(requests)
    for prompt, answer in zip(ids, found, strict=True):
        tensor = torch.tensor([prompt])
        expected = made.models[BASE].generate(
            input_ids=tensor, attention_mask=torch.ones_like(tensor), do_sample=False, num_beams=3, length_penalty=2.0,
            max_new_tokens=8, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        assert [token.id for token in answer] == expected[0, len(prompt) :].tolist()


def test_text_that_repeats_itself_is_not_drafted(made: Made, engine: Engine) -> None:
    """A token that is rejected would have gone into the states."""
    engine.generate_all([asked([9, 8, 7, 6] * 10, count=30)])
    assert engine.stats().drafted == 0


def test_a_draft_model_is_refused_by_name(made: Made) -> None:
    with pytest.raises(UsageError, match=r"--draft-model .*: layers of .* keep states"):
        opened(made, draft_model=made.bundle.folder)


def test_virtual_tokens_are_refused_in_one_sentence(made: Made, tmp_path: Path) -> None:
    folder = save_prompt(made.base, tmp_path / "prompt", "prompt")
    with pytest.raises(AdapterError, match="keep states instead"):
        install(made.bundle, folder, "prompt")


def test_memory_for_not_even_one_state_is_refused(made: Made) -> None:
    with pytest.raises(UsageError, match="no room for states: those of one sequence take 1536 bytes"):
        opened(made, kv_bytes=3000)
