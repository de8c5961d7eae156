"""What is kept of responses, and for how long: by number, bytes and age, for each key apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune_serve.responses import store as response_store
from ptune_serve.responses.store import ResponseStore


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def response(name: str, size: int = 0) -> dict[str, Any]:
    return {"id": name, "text": "x" * size}


def test_the_oldest_of_a_key_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_RESPONSES", 2)
    store = ResponseStore(10_000)
    for name in ("a", "b", "c"):
        assert store.keep("alice", response(name), ())
    store.keep("bob", response("d"), ())
    assert [store.find("alice", name) is not None for name in ("a", "b", "c")] == [False, True, True]
    assert store.find("bob", "d") is not None
    assert store.find("alice", "d") is None


def test_who_keeps_most_loses_first() -> None:
    store = ResponseStore(10_000)
    store.keep("bob", response("small", 1000), ())
    for number in range(20):
        assert store.keep("alice", response(f"large-{number}", 2000), ())
    assert store.find("bob", "small") is not None
    assert store.find("alice", "large-19") is not None
    assert store.find("alice", "large-0") is None


def test_what_can_never_fit_is_not_kept() -> None:
    store = ResponseStore(10_000)
    store.keep("alice", response("small"), ())
    assert not store.keep("alice", response("huge", 10_000), ())
    assert store.find("alice", "huge") is None
    assert store.find("alice", "small") is not None
    assert not ResponseStore(0).keep("alice", response("small"), ())


def test_a_response_grows_old() -> None:
    clock = Clock()
    store = ResponseStore(10_000, clock=clock)
    store.keep("alice", response("old"), ())
    clock.now_s += 20 * 3600
    store.keep("alice", response("young"), ())
    clock.now_s += 5 * 3600
    assert store.find("alice", "old") is None
    assert not store.forget("alice", "old")
    assert store.find("alice", "young") is not None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["keep", "forget", "wait"]),
        st.sampled_from(["alice", "bob"]),
        st.integers(0, 9),
        st.integers(0, 900),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_the_bounds_hold(steps: list[tuple[str, str, int, int]]) -> None:
    clock = Clock()
    store = ResponseStore(2000, clock=clock)
    made = 0
    for kind, key, number, size in steps:
        if kind == "keep":
            made += 1
            assert store.keep(key, response(f"{made}", size), ())
            assert store.find(key, f"{made}") is not None
        elif kind == "forget":
            assert store.forget(key, f"{made - number}") in (True, False)
            assert store.find(key, f"{made - number}") is None
        else:
            clock.now_s += number * 3600
        kept = [
            found.size_bytes
            for name in ("alice", "bob")
            for index in range(made + 1)
            if (found := store.find(name, f"{index}")) is not None
        ]
        assert sum(kept) <= 2000
