"""Any order of requests, loads, failures and departures: the budget holds, nothing in use goes, no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import examples

from ptune.errors import FormatError, RequestError
from ptune_serve.bundles.bundles import FAILED_FOR_S, Bundles
from ptune_serve.bundles.table import Entry, Table

PREDICTED = {"a": 2, "b": 3, "c": 4, "d": 9}
ACTUAL = {"a": 3, "b": 3, "c": 2, "d": 12}  # what they turn out to take; `d` is more than there is
BUDGET = 10


@dataclass(eq=False)
class Model:
    name: str
    closed: bool = False


@dataclass
class Loaded:
    """Stands for a `LoadedBundle`."""

    model: Any


class Later:
    """What would run on threads, when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def run(self, work: Callable[[], Any], /) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((work, future))
        return await asyncio.shield(future)

    def join(self) -> None:
        pass

    def do_next(self) -> None:
        work, future = self.waiting.pop(0)
        try:
            future.set_result(work())
        except FormatError as error:
            future.set_exception(error)


@dataclass(eq=False)
class Asked:
    name: str
    go_on: asyncio.Event
    using: Loaded | None = None
    ended: str = ""
    task: Any = field(default=None)


@pytest.fixture(scope="module", autouse=True)
def no_garbage() -> Iterator[None]:
    """What is unloaded here leaves none, and a search for it looks at all that a session's tests have left."""
    with patch("gc.collect"):
        yield


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_s, self.fails = 1000.0, False
        self.open: list[Model] = []
        self.later = Later()
        self.table = Table([Entry(name, size) for name, size in PREDICTED.items()], BUDGET)
        self.served = Bundles(
            self.table,
            self.load,
            dict.fromkeys(PREDICTED, 0.0),
            measured=lambda: sum(ACTUAL[model.name] for model in self.open),
            beside=self.later,
            clock=lambda: self.now_s,
        )
        self.asked: list[Asked] = []
        self.by_hand: list[Any] = []

    def load(self, name: str) -> Any:
        if self.fails:
            raise FormatError(f"{name} is damaged")
        model = Model(name)
        self.open.append(model)

        def close() -> None:
            assert not model.closed
            model.closed = True
            self.open.remove(model)

        model.close = close  # type: ignore[attr-defined]
        return Loaded(model)

    def spin(self) -> None:
        async def turns() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(name=st.sampled_from(sorted(PREDICTED)), idle_s=st.sampled_from([None, 0.0]))
    def ask(self, name: str, idle_s: float | None) -> None:
        one = Asked(name, asyncio.Event())

        async def request() -> None:
            try:
                async with self.served.using(name, idle_s) as loaded:
                    one.using = loaded
                    await one.go_on.wait()
                    one.using = None
                one.ended = "served"
            except RequestError as error:
                one.ended = {429: "refused", 503: "refused"}[error.status]
            except asyncio.CancelledError:
                one.ended, one.using = "left", None

        one.task = self.loop.create_task(request())
        self.asked.append(one)
        self.spin()

    @precondition(lambda self: any(not one.ended for one in self.asked))
    @rule(data=st.data(), leaves=st.booleans())
    def end(self, data: st.DataObject, leaves: bool) -> None:
        one = data.draw(st.sampled_from([one for one in self.asked if not one.ended]))
        if leaves:
            one.task.cancel()
        else:
            one.go_on.set()
        self.spin()

    @precondition(lambda self: self.later.waiting)
    @rule(fails=st.booleans())
    def thread_ends(self, fails: bool) -> None:
        self.fails = fails
        self.later.do_next()
        self.spin()

    @rule(name=st.sampled_from(sorted(PREDICTED)))
    def unload(self, name: str) -> None:
        async def by_hand() -> None:
            with contextlib.suppress(RequestError):  # 409: it is used
                await self.served.unload(name)

        self.by_hand.append(self.loop.create_task(by_hand()))
        self.spin()

    @rule()
    def time_passes(self) -> None:
        self.now_s += FAILED_FOR_S

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.table.taken_bytes <= BUDGET

    @invariant()
    def what_is_in_use_is_open(self) -> None:
        for one in self.asked:
            if one.using is not None:
                entry = self.table[one.name]
                assert entry.loaded is one.using
                assert not one.using.model.closed

    @invariant()
    def users_are_the_requests_under_way(self) -> None:
        for entry in self.table:
            assert entry.users == sum(one.name == entry.name and not one.ended for one in self.asked)

    @invariant()
    def one_moves_at_a_time(self) -> None:
        assert sum(entry.state in ("loading", "unloading") for entry in self.table) <= 2
        assert sum(entry.state == "loading" for entry in self.table) <= 1
        assert {entry.name for entry in self.table if entry.loaded is not None} == {
            entry.name for entry in self.table if entry.state == "loaded"
        }

    def teardown(self) -> None:
        self.fails = False
        for one in self.asked:
            one.go_on.set()
        for _ in range(200):
            self.spin()
            if self.later.waiting:
                self.later.do_next()
        assert all(one.ended for one in self.asked), "no request is lost"
        assert all(task.done() for task in self.by_hand)
        assert not self.later.waiting
        assert {entry.state for entry in self.table} <= {"loaded", "unloaded"}
        loaded = sorted(entry.name for entry in self.table if entry.state == "loaded")
        assert loaded == sorted(model.name for model in self.open)
        self.served.close()
        assert not self.open
        self.loop.close()


TestTraffic = Traffic.TestCase
TestTraffic.settings = examples.most(
    150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_nothing_goes_in_vain() -> None:
    table = Table([Entry("a", 4), Entry("b", 4), Entry("c", 9)], BUDGET)
    for name in ("a", "b"):
        table[name].state = "loaded"
    table.enter(table["a"])
    with pytest.raises(RequestError, match="while requests for a are being answered"):
        table.next_to_go(table["c"], 9)
    table.leave(table["a"])
    assert table.next_to_go(table["c"], 9) is table["b"], "`a` was used last"
    with pytest.raises(RequestError, match="and this server may take"):
        table.next_to_go(table["c"], 11)
