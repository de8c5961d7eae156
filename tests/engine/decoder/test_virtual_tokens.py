"""Adapters that stand before every text, served beside LoRA in one batch: each row is what peft computes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from support.bundles import peft_folder, tiny_bundle
from support.int8_cache import give_int8_cache
from support.prompt_adapters import KINDS, Alone, install_prompt, save_prompt

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.drafts.model import DraftModel
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.decoder.step import Logits
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax

LIMIT = 5e-4  # of a log-probability
GREEDY = Sampling(temperature=0)
LORA, OTHER = "wide", "narrow"
SUM = "wide+0.5*narrow"
NAMES = [BASE, LORA, SUM, *KINDS]
VIRTUAL = {name: options["num_virtual_tokens"] for name, (_, options) in KINDS.items()}


@dataclass
class Made:
    bundle: Bundle
    alone: dict[str, Alone]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp(request.param)
    base, loaded, bundle = tiny_bundle(place, request.param)
    folders = {LORA: peft_folder(base, place / LORA, seed=1, spread=0.5)}
    folders[OTHER] = peft_folder(base, place / OTHER, seed=2, r=2, use_rslora=True)
    for name in (LORA, OTHER):
        install(bundle, folders[name], name)
    for seed, kind in enumerate(KINDS):
        folders[kind] = save_prompt(base, place / kind, kind, seed=seed)
        install_prompt(bundle, loaded, folders[kind], kind)
    alone = {name: Alone(base, folders.get(name)) for name in NAMES if name != SUM}
    alone[SUM] = Alone(base, None, (folders[LORA], 1.0), (folders[OTHER], 0.5))
    return Made(bundle, alone)


def opened(made: Made, **options: object) -> closing[Engine]:
    defaults = {"threads": 1, "max_rows": 6, "prefill_chunk": 8, "replay_golden": False}
    return closing(Engine.open(made.bundle, **{**defaults, **options}))  # type: ignore[arg-type]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(5, 600, int(random.integers(1, 30))).tolist() for _ in range(count)]


def test_rows_of_a_mixed_batch_are_what_peft_computes_alone(made: Made) -> None:
    ids, names = prompts(16), [NAMES[at % len(NAMES)] for at in range(16)]
    with opened(made) as engine:
        found = engine.logits(ids, names)
    moved = dict.fromkeys(NAMES, 0.0)
    for sequence, name, rows in zip(ids, names, found, strict=True):
        expected = log_softmax(made.alone[name].logits(sequence))
        assert np.abs(log_softmax(rows) - expected).max() < LIMIT
        bare = log_softmax(made.alone[BASE].logits(sequence))
        moved[name] = max(moved[name], float(np.abs(expected - bare).max()))
    assert min(moved[name] for name in NAMES if name != BASE) > 100 * LIMIT


def test_greedy_tokens_are_pefts_and_their_bits_the_same_in_any_company(made: Made) -> None:
    asked = [
        Request(tuple(ids), NAMES[at % len(NAMES)], GREEDY, max_tokens=6, logprobs=3)
        for at, ids in enumerate(prompts(16, seed=1))
    ]
    with opened(made, max_rows=18) as engine:
        together = engine.generate_all(asked)
        again = engine.generate_all(asked)  # from the prefix cache
        assert engine.stats().reused > 0
    with opened(made, max_rows=1, prefill_chunk=64) as engine:
        alone = [engine.generate_all([one])[0] for one in asked]
    for one, *answers in zip(asked, together, again, alone, strict=True):
        expected = made.alone[one.adapter].greedy([*one.prompt], 6)
        for answer in answers:
            assert [token.id for token in answer] == expected
            if one.adapter not in (LORA, SUM):  # whose products are of one row or of several
                assert answer == answers[0]


def test_prompt_tokens_beams_and_choices_are_those_of_pefts_model(made: Made) -> None:
    prompt = prompts(1, seed=2)[0] * 2
    for name in KINDS:
        expected = log_softmax(made.alone[name].logits(prompt))
        scored = Request(tuple(prompt), name, GREEDY, max_tokens=0, prompt_logprobs=0)
        twins = [Request(tuple(prompt), name, Sampling(seed=seed), max_tokens=5) for seed in (1, 2, 1)]
        search = Request(tuple(prompt), name, GREEDY, max_tokens=5, beams=Beams(3))
        with opened(made) as engine:
            told, best, *choices = engine.generate_all([scored, search, *twins])
            assert choices[0] == choices[2] != choices[1]
            assert engine.generate_all(twins) == choices
            other = engine.generate_all([search])[0]
        for at, token in enumerate(told[1 : len(prompt)]):
            assert token.logprob == pytest.approx(float(expected[at, prompt[at + 1]]), abs=LIMIT)
        assert best == other
        said = [*prompt, *(token.id for token in best)]
        rows = log_softmax(made.alone[name].logits(said))[len(prompt) - 1 : -1]
        score = sum(float(row[token.id]) for row, token in zip(rows, best, strict=True)) / len(best)
        assert best[-1].score == pytest.approx(score, abs=LIMIT)


@pytest.mark.parametrize("beams", [None, Beams(3)])
def test_answers_survive_preemption(made: Made, beams: Beams | None) -> None:
    asked = [
        Request(tuple(ids), name, GREEDY, max_tokens=60, beams=beams)
        for ids, name in zip(prompts(6, seed=3), [*KINDS, BASE, "prompt"], strict=True)
    ]
    with opened(made, max_rows=12) as engine:
        expected = engine.generate_all(asked)
    with opened(made, max_rows=12, kv_bytes=600 * made.bundle.decoder.cache_bytes_per_token()) as engine:
        assert engine.generate_all(asked) == expected
        assert engine.stats().preempted


def test_after_a_failed_step_they_are_written_anew(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Request((*range(9, 40), 5 + at), "projected", GREEDY, max_tokens=4) for at in range(4)]
    asked = [*asked, *(Request((*range(9, 50), 5 + at), "prompt", GREEDY, max_tokens=4) for at in range(2))]
    with opened(made) as engine:
        expected = engine.generate_all(asked)
    with opened(made) as engine:
        step, calls = engine._step, []

        def failing(chunks: Sequence[Chunk]) -> list[Logits]:
            calls.append(len(chunks))
            if len(calls) == 2:
                engine._cache.window(0, 6)["past_value.0"][:] = 7.0  # it could have written anywhere
                raise RuntimeError("out of order")
            return step(chunks)

        monkeypatch.setattr(engine, "_step", failing)
        found = engine.generate_all(asked)
    assert calls[1] < len(asked)
    lived = [at for at, answer in enumerate(found) if answer[-1].finish != "error"]
    assert lived
    assert [found[at] for at in lived] == [expected[at] for at in lived]


def test_drafts_change_no_answer(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as a draft model of its own, and text that repeats itself."""

    def read_by(model: DraftModel) -> Callable[[Sequence[Chunk]], list[Logits]]:
        step = model._step

        def checked(chunks: Sequence[Chunk]) -> list[Logits]:
            assert min(min(chunk.tokens) for chunk in chunks) >= 0  # it knows no virtual tokens
            return step(chunks)

        return checked

    asked = [
        Request(tuple(ids * 3), name, GREEDY, max_tokens=24)
        for ids, name in zip(prompts(6, seed=6), [*KINDS, BASE, "prompt"], strict=True)
    ]
    with opened(made, num_speculative_tokens=0) as engine:
        expected = engine.generate_all(asked)
    for options in ({"draft_model": made.bundle.folder}, {"num_speculative_tokens": 16}):
        with opened(made, **options) as engine:
            if (model := engine._drafts._model) is not None:
                monkeypatch.setattr(model, "_step", read_by(model))
            assert engine.generate_all(asked) == expected
            assert engine.stats().drafted
            assert engine._drafts._model is model


def test_virtual_tokens_count_for_the_context_and_not_for_the_prompt(made: Made) -> None:
    with opened(made) as engine:
        context = engine.context
        for name, count in VIRTUAL.items():
            assert engine.longest(adapter=name) == context - count
            ids = tuple(prompts(1, seed=4)[0])
            fits = context - count - len(ids)
            assert len(engine.generate_all([Request(ids, name, GREEDY, max_tokens=fits)])[0]) == fits
            with pytest.raises(RequestError, match=f"a sequence may have {context - count}"):
                engine.generate_all([Request(ids, name, GREEDY, max_tokens=fits + 1)])
            with pytest.raises(RequestError, match=f"a sequence may have {context - count}"):
                engine.logits([[5] * (context - count + 1)], [name])


def test_an_adapter_that_grew_meanwhile_answers_nobody_beyond_the_context(made: Made) -> None:
    with opened(made) as engine:
        record = engine.record("prompt")
        assert record is not None
        engine._registry._records["prompt"] = record.model_copy(update={"virtual_tokens": 0})
        request = Request((5, 6), "prompt", GREEDY, max_tokens=engine.context - 2)
        (token,) = engine.generate_all([request])[0]
        assert (token.finish, "replaced by one with more virtual tokens" in str(token.error)) == (
            "error",
            True,
        )
        assert len(engine.generate_all([Request((5, 6), "prompt", GREEDY, max_tokens=2)])[0]) == 2


def test_a_cache_in_int8_holds_them_rounded_by_its_own_scales(made: Made) -> None:
    give_int8_cache(made.bundle, ids=())
    ids, names = prompts(12, seed=5), [[*KINDS, BASE, LORA][at % 6] for at in range(12)]
    with opened(made) as engine:
        expected = engine.logits(ids, names)
    with opened(made, kv_cache_dtype="int8") as engine:
        found = engine.logits(ids, names)
    worst = dict.fromkeys(names, 0.0)
    for name, one, other in zip(names, expected, found, strict=True):
        p, q = log_softmax(one), log_softmax(other)
        worst[name] = max(worst[name], float((np.exp(p) * (p - q)).sum(-1).mean()))
    assert max(worst.values()) < 2 * max(worst[BASE], worst[LORA], 2.5e-3)
