"""Sequences with a grammar and without one share the engine's steps."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from support.fake_chat_model import wait_until
from support.tiny_grammars import CODEC, END, GRAMMARS

from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.answers import generation
from ptune.engine.decoder.answers.grammar import Grammar, Walk
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    opened = Engine.open(tiny.folder, threads=1, max_rows=4, prefill_chunk=8, replay_golden=False)
    yield opened
    opened.close()


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def request(seed: int, form: StructuredOutput | None, adapter: str = "wide", limit: int = 300) -> Request:
    grammar = None if form is None else GRAMMARS.compile(form.source(), END)
    return Request((1, 40 + seed, 7), adapter, Sampling(seed=seed), limit, END, logprobs=3, grammar=grammar)


def test_rows_with_and_without_a_grammar_share_batches(engine: Engine) -> None:
    forms = [
        StructuredOutput.json(SCHEMA),
        None,
        StructuredOutput.choice(["yes", "no"]),
        None,
        StructuredOutput.json(SCHEMA),
        StructuredOutput.regex("[ab]{9}"),
    ]
    requests = [request(seed, form, limit=60 if form is None else 300) for seed, form in enumerate(forms)]
    together = engine.generate_all(requests)
    for form, asked, tokens in zip(forms, requests, together, strict=True):
        assert [token.id for token in tokens] == [token.id for token in engine.generate(asked)]
        if form is not None:
            assert tokens[-1].finish == "stop"
    texts = [CODEC.decode([token.id for token in tokens]) for tokens in together]
    for text in (texts[0], texts[4]):
        jsonschema.validate(json.loads(text), SCHEMA)
    assert texts[2] in ("yes", "no")
    assert re.fullmatch("[ab]{9}", texts[5])


def test_an_answer_that_is_cut_off_says_length(engine: Engine) -> None:
    tokens = list(engine.generate(request(0, StructuredOutput.json(SCHEMA), limit=3)))
    assert [token.finish for token in tokens] == [None, None, "length"]


def test_logprobs_are_the_models_own(engine: Engine, tiny: TinyBundle) -> None:
    """Before the grammar, as vLLM's default: so the best tokens need not be among those that may come."""
    asked = request(1, StructuredOutput.choice(["yes"]))
    tokens = list(engine.generate(asked))
    ids = [*asked.prompt, *(token.id for token in tokens)]
    logits = tiny.logits(ids[:-1], "wide")[len(asked.prompt) - 1 :]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for token, row in zip(tokens, expected, strict=True):
        assert token.logprob == pytest.approx(row[token.id], abs=1e-3)
        assert [number for number, _ in token.top] == np.argsort(-row)[:3].tolist()
    assert any(token.id not in [number for number, _ in token.top] for token in tokens)


def test_a_grammar_that_fails_ends_its_row_alone(engine: Engine) -> None:
    wild = StructuredOutput.regex(r"(\w{1,1000}){1,1000}")
    failed, other = engine.generate_all([request(3, wild), request(4, StructuredOutput.regex("a{5}"))])
    assert (failed[-1].finish, failed[-1].refused) == ("error", True)
    assert "too complex" in (failed[-1].error or "")
    assert [token.finish for token in other][-1] == "stop"


class Slow:
    """Holds the masks of one walk back, from its second on, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits, self.go_on = threading.Event(), threading.Event()
        self.walks: list[Walk] = []
        after = Walk._after

        def held(walk: Walk, token: int) -> Any:
            if walk in self.walks:
                self.waits.set()
                assert self.go_on.wait(120)
            return after(walk, token)

        monkeypatch.setattr(Walk, "_after", held)

    def hold(self, grammar: Grammar, monkeypatch: pytest.MonkeyPatch) -> None:
        """The walks that begin from now on are slow."""
        walk = grammar.walk

        def begun() -> Walk:
            self.walks.append(walk())
            return self.walks[-1]

        monkeypatch.setattr(grammar, "walk", begun)


def test_a_mask_that_takes_long_holds_up_its_own_row_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others end, one that comes later too, and its answer is what it would have been."""
    asked, free = request(5, StructuredOutput.json(SCHEMA)), request(6, None, limit=20)
    expected = [list(engine.generate(one)) for one in (asked, free)]
    slow = Slow(monkeypatch)
    assert asked.grammar is not None
    slow.hold(asked.grammar, monkeypatch)
    held = engine.generate(asked)
    assert slow.waits.wait(120)
    assert list(engine.generate(free)) == expected[1]
    formed = request(7, StructuredOutput.regex("a{5}"))
    assert list(engine.generate(formed))[-1].finish == "stop", "its masks have another thread"
    wait_until(lambda: engine.stats().running == 1)
    slow.go_on.set()
    assert list(held) == expected[0]


def test_a_row_that_waits_for_its_mask_can_be_cancelled_and_closed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(8, StructuredOutput.json(SCHEMA))
    slow = Slow(monkeypatch)
    assert asked.grammar is not None
    slow.hold(asked.grammar, monkeypatch)
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    ticket = engine.submit(asked, tokens.put)
    assert slow.waits.wait(120)
    ticket.cancel()
    finishes: list[str | None] = []
    while not any(finishes):
        finishes.append(tokens.get(timeout=120).finish)
    assert finishes[-1] == "cancelled"
    slow.go_on.set()


def test_rows_whose_masks_are_late_say_the_same_beside_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step waits for a mask: rows join and leave the steps all the time, and one may be preempted as it waits."""
    forms = [StructuredOutput.json(SCHEMA), None, StructuredOutput.choice(["yes", "no"]), None] * 3
    requests = [request(seed, form, limit=60) for seed, form in enumerate(forms)]
    expected = [list(engine.generate(one)) for one in requests]
    monkeypatch.setattr(generation, "MASK_S", 0.0)
    assert engine.generate_all(requests) == expected
