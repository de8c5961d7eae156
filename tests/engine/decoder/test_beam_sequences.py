"""Beam search in the engine: the tokens and scores of transformers, whatever else is in the batch; and how it ends early."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.tiny_bundle import TinyBundle
from support.tiny_models import VOCAB

from ptune.engine import base
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import NO_TOKEN, Beams, Request, Token
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.decoder.ticket import Ticket
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError

GREEDY = Sampling(temperature=0)
SCORE = 1e-3  # of a sum of log-probabilities, against transformers
STOPS = frozenset(range(2, 62))  # a tenth of the vocabulary, so that random models come to an end


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    """Small chunks and few slots, so that prompts are chunked and searches wait."""
    opened = Engine.open(tiny.folder, threads=1, max_rows=6, prefill_chunk=8, replay_golden=False)
    yield opened
    opened.close()


def prompts(*lengths: int, seed: int = 0) -> list[tuple[int, ...]]:
    random = np.random.default_rng(seed)
    return [tuple(random.integers(70, VOCAB, length).tolist()) for length in lengths]


def search(
    prompt: tuple[int, ...], adapter: str, beams: Beams, max_tokens: int = 12, **fields: Any
) -> Request:
    fields = {"stop_ids": STOPS, **fields}
    return Request(prompt, adapter, GREEDY, max_tokens=max_tokens, beams=beams, **fields)


def reference(model: Any, request: Request) -> tuple[list[int], float]:
    """transformers' best answer and its score."""
    assert request.beams is not None
    ids, beams = torch.tensor([request.prompt]), request.beams
    told = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=beams.num_beams,
        length_penalty=beams.length_penalty, early_stopping=beams.early_stopping, pad_token_id=0,
        max_new_tokens=request.max_tokens, eos_token_id=sorted(request.stop_ids) or None,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    return told.sequences[0, len(request.prompt) :].tolist(), float(told.sequences_scores[0])


def check(answer: Sequence[Token], expected: tuple[list[int], float], stop_ids: frozenset[int]) -> None:
    tokens, score = expected
    assert [token.id for token in answer] == tokens
    assert answer[-1].score == pytest.approx(score, abs=SCORE)
    finish = "stop" if tokens[-1] in stop_ids else "length"
    assert [token.finish for token in answer] == [None] * (len(tokens) - 1) + [finish]


GRID = [
    Beams(number, penalty, early)
    for number in (2, 3, 5)
    for penalty in (0.5, 1.0, 2.0)
    for early in (False, True)
] + [Beams(4, 1.0, "never")]


def test_the_answers_and_scores_of_transformers(tiny: TinyBundle, engine: Engine) -> None:
    """All at once, base and adapters mixed, beside greedy requests; and each alone."""
    names = ["base", "wide", "narrow"]
    requests = [
        search(prompt, names[number % 3], beams, stop_ids=STOPS if number % 4 else frozenset())
        for number, (beams, prompt) in enumerate(zip(GRID, prompts(*range(3, 3 + len(GRID))), strict=True))
    ]
    greedy = [Request(prompt, "base", GREEDY, max_tokens=15) for prompt in prompts(9, 14, 4, seed=1)]
    answers = engine.generate_all([*requests[:9], *greedy, *requests[9:]])
    found, neighbours = [*answers[:9], *answers[12:]], answers[9:12]
    expected = [reference(tiny.models[request.adapter], request) for request in requests]
    for request, answer, one in zip(requests, found, expected, strict=True):
        check(answer, one, request.stop_ids)
    for request, neighbour in zip(greedy, neighbours, strict=True):
        assert [token.id for token in neighbour] == tiny.greedy(list(request.prompt), "base", 15)
    ends = [answer[-1].finish for answer in found]
    assert ends.count("stop") > 5 < ends.count("length"), "both ends are seen"
    for request, answer in zip(requests[::5], found[::5], strict=True):
        alone = list(engine.generate(request))
        assert [token.id for token in alone] == [token.id for token in answer]
    again = [list(engine.generate(request)) for request in requests if request.adapter == "base"]
    assert again == [
        answer for request, answer in zip(requests, found, strict=True) if request.adapter == "base"
    ], "of the base to the bit"
    greedily = [
        tiny.greedy(list(request.prompt), request.adapter, len(answer))
        for request, answer in zip(requests, found, strict=True)
    ]
    same = [one == [token.id for token in answer] for one, answer in zip(greedily, found, strict=True)]
    assert same.count(False) > 5, "beams find something else than greedy, or this test proves nothing"


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt2", "mistral"])
def test_other_families_with_an_adapter_of_peft(family: str, tmp_path: Path) -> None:
    """Past the sliding windows of 8."""
    base, _, bundle = tiny_bundle(tmp_path, family)
    folder = peft_folder(base, tmp_path / "lora", seed=1, spread=0.2)
    install(bundle, folder, "lora")
    requests = [
        search(prompt, adapter, beams)
        for prompt, (adapter, beams) in zip(
            prompts(13, 6, 10, 4),
            [
                ("lora", Beams(4, 2.0)),
                ("base", Beams(3, 0.5, True)),
                ("lora", Beams(2)),
                ("base", Beams(5, 2.0)),
            ],
            strict=True,
        )
    ]
    models = {"base": with_peft(base, None), "lora": with_peft(base, folder)}
    with closing(Engine.open(bundle, threads=1, max_rows=9, prefill_chunk=8, replay_golden=False)) as engine:
        answers = engine.generate_all(requests)
    for request, answer in zip(requests, answers, strict=True):
        check(answer, reference(models[request.adapter], request), request.stop_ids)


def test_prompts_are_computed_once_and_beams_copy_only_what_differs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [prompt] = prompts(40, seed=5)
    copies: list[tuple[int, int, int, int]] = []
    copy = engine._scheduler.slots._copy

    def counted(*copied: Any) -> None:
        copies.append(copied)
        copy(*copied)

    monkeypatch.setattr(engine._scheduler.slots, "_copy", counted)
    before = engine.stats().tokens
    answer = list(engine.generate(search(prompt, "base", Beams(4), 10, stop_ids=frozenset())))
    assert len(answer) == 10
    assert engine.stats().tokens - before == len(prompt) + 4 * 9
    assert [(start, stop) for _, _, start, stop in copies[:3]] == [(0, 40)] * 3
    assert all(source != target for source, target, _, _ in copies)
    assert len(copies) <= 3 + 9 * 3
    assert all(40 <= start < stop for _, _, start, stop in copies[3:]), "the prompt is there already"


def test_searches_of_two_tenants_give_way_and_find_the_same(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = Beams(3, 1.0)
    mine = [
        search(prompt, "base", beams, 40, stop_ids=frozenset()) for prompt in prompts(20, 30, 25, 9, seed=2)
    ]
    other = [
        search(prompt, "base", beams, 5, stop_ids=frozenset(), tenant="other")
        for prompt in prompts(8, 11, seed=3)
    ]
    alone = [list(engine.generate(request)) for request in (*mine, *other)]
    queues: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in alone]
    preempted, step, steps = engine.stats().preempted, engine._step, []

    def counted(chunks: Sequence[Chunk]) -> object:
        """The other tenant comes when two searches hold all slots and have gone on for a while."""
        steps.append(len(chunks))
        if len(steps) == 15:
            for request, tokens in zip(other, queues[4:], strict=True):
                engine.submit(request, tokens.put)
        return step(chunks)

    monkeypatch.setattr(engine, "_step", counted)
    with engine._changed:
        for request, tokens in zip(mine, queues, strict=False):
            engine.submit(request, tokens.put)
    assert [
        [tokens.get(timeout=120) for _ in answer] for tokens, answer in zip(queues, alone, strict=True)
    ] == alone
    assert engine.stats().preempted > preempted


def drained(engine: Engine) -> None:
    """Every slot is free again, and no adapter is used."""
    with engine._changed:
        assert engine._changed.wait_for(lambda: not engine._scheduler.busy, 60)
        assert sorted(engine._scheduler.slots.free) == list(range(6))
        assert [entry.refcount for entry in engine._registry._cache._entries.values()] == [0, 0]


class At:
    """Does something when a search of so many beams has gone on for five steps."""

    def __init__(self, engine: Engine, beams: int, do: Callable[[], object]) -> None:
        self._step, self._beams, self._do, self._seen = engine._step, beams, do, 0

    def __call__(self, chunks: Sequence[Chunk]) -> object:
        self._seen += len(chunks) == self._beams
        if self._seen == 5:
            self._seen += 1
            self._do()
        return self._step(chunks)


def test_a_cancelled_search_ends_at_once_and_leaks_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    tickets: list[Ticket] = []
    monkeypatch.setattr(engine, "_step", At(engine, 6, lambda: tickets[0].cancel()))
    [prompt] = prompts(12)
    with engine._changed:
        request = search(prompt, "wide", Beams(6), 400, stop_ids=frozenset())
        tickets.append(engine.submit(request, tokens.put))
    last = tokens.get(timeout=120)
    assert (last.id, last.finish) == (NO_TOKEN, "cancelled")
    drained(engine)


def test_a_late_search_answers_with_the_best_by_then(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been asked for so many tokens."""
    now = [100.0]
    monkeypatch.setattr(base, "clock_s", lambda: now[0])
    monkeypatch.setattr(engine, "_step", At(engine, 3, lambda: now.append(now.pop() + 9)))
    [prompt] = prompts(12)
    request = search(prompt, "base", Beams(3, 0.0), 400, stop_ids=frozenset(), deadline_s=5)
    answer = list(engine.generate(request))
    assert len(answer) == 6
    check(
        answer,
        reference(tiny.models["base"], search(prompt, "base", Beams(3, 0.0), 6, stop_ids=frozenset())),
        frozenset(),
    )
    drained(engine)


def test_a_step_that_fails_ends_the_search_with_an_error(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    [prompt] = prompts(12)
    request = search(prompt, "base", Beams(4))
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_step", At(engine, 4, fail))
        [last] = engine.generate(request)
        assert (last.id, last.finish) == (NO_TOKEN, "error")
    drained(engine)
    check(list(engine.generate(request)), reference(tiny.models["base"], request), STOPS)


def test_numbers_that_are_none_end_the_search_with_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine._step

    def broken(chunks: Sequence[Chunk]) -> object:
        columns = step(chunks)
        if len(chunks) == 4:
            columns[2][:] = np.nan
        return columns

    [prompt] = prompts(12)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_step", broken)
        [last] = engine.generate(search(prompt, "base", Beams(4)))
        assert last.finish == "error"
        assert "not a number" in str(last.error)
    drained(engine)


def test_more_beams_than_rows_are_refused(engine: Engine) -> None:
    with pytest.raises(
        RequestError, match="at most 6 here, as each beam takes a slot of the engine, which has 6"
    ) as refused:
        engine.generate(search((70, 71), "base", Beams(7), stop_ids=frozenset()))
    assert refused.value.param == "num_beams"
