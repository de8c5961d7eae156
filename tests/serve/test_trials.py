"""The life of a trial by loss, with a store and an engine that do what a test wants: what ends it, and what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import Alias, ByLoss, ByUsers, Canary, Decide
from ptune_serve.rollout import trials as module
from ptune_serve.rollout.evidence import Loss
from ptune_serve.rollout.texts import Text
from ptune_serve.rollout.trials import Trial, Trials

FULL = RequestError("9 requests are waiting", code="queue_full", status=429)
DISK = RequestError("the disk is full", code="not_stored", status=507)
CLOSING = RequestError("the engine is shutting down", code="shutting_down", status=503)
GONE = RequestError("no adapter 'new' here", code="model_not_found", status=404)


def alias(users: bool = False, share: float = 0.5) -> Alias:
    decide = Decide(loss=ByLoss(texts="x"), users=ByUsers() if users else None)
    return Alias(name="old", canary=Canary(name="new", share=share, decide=decide))


@dataclass
class FakeStore:
    """Aliases in memory. failures: of the next writes."""

    kept: dict[str, Alias] = field(default_factory=lambda: {"prod": alias()})
    failures: list[RequestError] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    def aliases(self) -> dict[str, Alias]:
        return self.kept

    def settle(self, alias: str, tried: tuple[str, Canary], name: str) -> bool:
        if self.failures:
            raise self.failures.pop()
        now = self.kept.get(alias)
        if now is None or (now.name, now.canary) != tried:
            return False
        self.settled.append(name)
        self.kept[alias] = Alias(name=name)
        return True


@dataclass
class FakeScores:
    """Losses of some texts. failures: of the next asked; at: called before a text by its number."""

    apart: float = 0.5
    count: int = 500
    failures: list[Exception] = field(default_factory=list)
    at: dict[int, Callable[[], Any]] = field(default_factory=dict)
    broken: RequestError | None = None
    asked: int = 0

    def texts(self, rule: ByLoss) -> list[Text]:
        if self.broken is not None:
            raise self.broken
        return [Text(number, b"{}") for number in range(self.count)]

    async def losses(self, text: Text, rule: ByLoss, adapters: tuple[str, str]) -> list[Loss]:
        self.asked += 1
        assert adapters == ("old", "new")
        if self.failures:
            raise self.failures.pop()
        self.at.get(text.number, lambda: None)()
        await asyncio.sleep(0)
        return [Loss(10.0, 10), Loss(10 + 10 * self.apart, 10)]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)


def running(
    store: FakeStore, scores: FakeScores | None, *then: Callable[[Trials], Coroutine[Any, Any, None]]
) -> tuple[Trials, Trial | None]:
    """Trials and the one of prod, after it has ended."""

    async def run() -> tuple[Trials, Trial | None]:
        trials = Trials(store, scores)
        trial = trials.of("prod")
        for step in then:
            await step(trials)
        while trials._comparing:
            await asyncio.sleep(0)
        return trials, trial

    return asyncio.run(run())


def test_it_is_settled_once() -> None:
    store, scores = FakeStore(), FakeScores()
    trials, _ = running(store, scores)
    assert store.settled == ["old"]
    assert trials.decided == {"promoted": 0, "rolled back": 1}
    assert 1 < scores.asked < 50
    assert trials.running == {}


@pytest.mark.parametrize(
    "moved",
    [Alias(name="new"), Alias(name="old"), alias(share=0.9), None],
    ids=["to the canary", "without canary", "another share", "removed"],
)
def test_an_alias_that_a_person_moves_is_left_alone(moved: Alias | None) -> None:
    """Before the last text that it would take to decide."""
    store, scores = FakeStore(), FakeScores()

    def move() -> None:
        if moved is None:
            del store.kept["prod"]
        else:
            store.kept["prod"] = moved

    scores.at[3] = move
    if moved is not None and moved.canary is not None:
        scores.apart = 0.0  # so that the trial that begins anew is not decided
    trials, first = running(store, scores)
    assert first is not None
    assert first.loss is not None
    assert first.loss.difference.count <= 4
    assert trials.running.get("prod") is not first


def test_a_move_while_it_is_settled_wins() -> None:
    store, scores = FakeStore(), FakeScores()
    settle = store.settle

    def late(alias: str, tried: tuple[str, Canary], name: str) -> bool:
        store.kept["prod"] = Alias(name="third")
        return settle(alias, tried, name)

    store.settle = late  # type: ignore[method-assign]
    trials, _ = running(store, scores)
    assert store.settled == []
    assert store.kept["prod"].name == "third"
    assert sum(trials.decided.values()) == 0


def test_it_waits_for_room_and_for_the_disk() -> None:
    store = FakeStore(failures=[DISK] * 4)
    scores = FakeScores(failures=[FULL] * 7)
    running(store, scores)
    assert store.settled == ["old"]
    assert store.failures == scores.failures == []


def test_a_text_that_the_engine_fails_is_tried_again_but_not_for_ever(caplog: Any) -> None:
    running(store := FakeStore(), FakeScores(failures=[PtuneError("a step failed")] * 2))
    assert store.settled == ["old"]
    _, trial = running(store := FakeStore(), FakeScores(failures=[PtuneError("a step failed")] * 3))
    assert store.settled == []
    assert trial is not None
    assert trial.loss is not None
    assert (trial.loss.state, trial.loss.problem) == ("stopped", "a step failed")
    assert "losses are no longer compared: a step failed" in caplog.text


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (FakeScores(failures=[GONE]), "no adapter 'new' here"),
        (FakeScores(broken=RequestError("the file is gone")), "the file is gone"),
        (FakeScores(failures=[ValueError("x")]), "internal error; the server's log says more"),
        (None, "of causal language models only"),
    ],
    ids=["adapter", "file", "bug", "encoder"],
)
def test_what_stops_it_is_told_and_the_alias_stays(scores: FakeScores | None, told: str) -> None:
    store = FakeStore()
    trials, trial = running(store, scores)
    assert trial is not None
    assert trial.loss is not None
    assert trial.loss.described()["state"] == "stopped"
    assert told in trial.loss.described()["problem"]
    assert trial.loss.left == 0
    assert store.kept["prod"] == alias()
    assert trials.running["prod"] is trial, "no other begins by itself"


def test_a_model_that_is_closed_ends_it_without_a_word(caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    _, trial = running(FakeStore(), FakeScores(failures=[CLOSING]))
    assert trial is not None
    assert trial.loss is not None
    assert trial.loss.state == "running"
    assert caplog.text == ""


def test_closing_ends_what_waits() -> None:
    scores = FakeScores(failures=[FULL] * 10**6)

    async def close(trials: Trials) -> None:
        await asyncio.sleep(0)
        await asyncio.wait_for(trials.close(), 5)
        assert not trials._comparing

    store = FakeStore()
    running(store, scores, close)
    assert store.settled == []


def test_all_texts_without_certainty_leave_it_to_the_users(caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    store, scores = FakeStore({"prod": alias(users=True)}), FakeScores(apart=0.0, count=20)

    async def judge(trials: Trials) -> None:
        while trials._comparing:
            await asyncio.sleep(0)
        assert "undecided" in caplog.text
        for _ in range(200):
            await trials.score("prod", "old", 1.0)
            await trials.score("prod", "new", 0.0)

    trials, trial = running(store, scores, judge)
    assert trial is not None
    assert trial.loss is not None
    assert (trial.loss.state, trial.loss.difference.count) == ("undecided", 20)
    assert store.settled == ["old"]
    assert trials.decided["rolled back"] == 1


def test_nobody_judges_where_another_server_does() -> None:
    async def run() -> None:
        trials = Trials(FakeStore(), FakeScores(), judges=False)
        trials.begin_all()
        assert trials.of("prod") is None
        assert trials.running == {}

    asyncio.run(run())
