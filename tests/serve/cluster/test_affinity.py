"""Which replica a request prefers, without Ray: adapters and beginnings of prompts stay where they are warm."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import pytest

from ptune_serve.cluster.affinity import PINNED, Popularity, Route, not_too_busy, ranked, route_of, seed_of

REPLICAS = [f"replica-{number}" for number in range(8)]


def body(model: str, *texts: str, **fields: Any) -> bytes:
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return json.dumps({"model": model, "messages": messages, **fields}).encode()


def order(route: Route, popularity: Popularity | None = None, replicas: list[str] = REPLICAS) -> list[str]:
    return ranked(route.levels, replicas, seed_of, (popularity or Popularity()).share)


def test_all_turns_of_a_conversation_prefer_the_same_replica() -> None:
    first = route_of(body("pirate", "Be brief.", "Where is Oslo?"))
    later = route_of(body("pirate", "Be brief.", "Where is Oslo?", "In Norway.", "And Bergen?"))
    assert first == later
    assert order(first) == order(later)


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "once upon"}, {"input": "a text"}, {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}],
)  # fmt: skip
def test_other_bodies_have_a_beginning_too(fields: dict[str, Any]) -> None:
    levels = route_of(json.dumps({"model": "m", **fields}).encode()).levels
    assert len(levels) == 2
    assert levels[0] == route_of(b'{"model": "m"}').levels[0]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"7", b'{"messages": []}', b"[" * 100_000, b"\xff"])
def test_what_is_no_request_to_a_model_goes_anywhere(raw: bytes) -> None:
    assert route_of(raw) == Route()


@pytest.mark.parametrize("most_frames", [1_000, 100_000])
def test_what_is_nested_deeper_than_a_message_is_no_text(most_frames: int) -> None:
    """Whatever a library made of Python's own limit."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(most_frames)
    try:
        deep = route_of(b'{"model": "m", "prompt": ' + b"[" * 300 + b'"text"' + b"]" * 300 + b"}")
    finally:
        sys.setrecursionlimit(before)
    assert deep == route_of(b'{"model": "m"}') != Route()


def test_a_rare_adapter_stays_on_one_replica_whatever_it_is_asked() -> None:
    popularity = Popularity()
    for number in range(1000):
        popularity.add(route_of(body(f"adapter-{number}", f"question {number}")).levels)
    chosen = {order(route_of(body("rare", f"question {n}")), popularity)[0] for n in range(50)}
    assert len(chosen) == 1
    others = Counter(order(route_of(body(f"rare-{n}", "hi")), popularity)[0] for n in range(800))
    assert len(others) == len(REPLICAS)
    assert max(others.values()) < 2 * 800 / len(REPLICAS)


def test_an_adapter_that_all_use_spreads_over_all_and_its_conversations_stay() -> None:
    popularity = Popularity()
    routes = [route_of(body("base", "One long system message. " * 100, f"question {n}")) for n in range(1000)]
    for route in routes:
        popularity.add(route.levels)
    chosen = Counter(order(route, popularity)[0] for route in routes)
    assert len(chosen) == len(REPLICAS)
    assert max(chosen.values()) < 2 * 1000 / len(REPLICAS)
    assert [order(route, popularity)[0] for route in routes] == [
        order(route, popularity)[0] for route in routes
    ]


def test_a_replica_that_goes_moves_only_what_it_had() -> None:
    routes = [route_of(body(f"adapter-{n}", "hi")) for n in range(300)]
    before = [order(route)[0] for route in routes]
    left = [replica for replica in REPLICAS if replica != "replica-3"]
    after = [order(route, replicas=left)[0] for route in routes]
    assert all(new == old for new, old in zip(after, before, strict=True) if old != "replica-3")
    assert len({new for new, old in zip(after, before, strict=True) if old == "replica-3"}) > 1


def test_every_replica_is_in_the_order_once() -> None:
    assert sorted(order(route_of(body("m", "x" * 9000, "y")))) == REPLICAS


def test_a_replica_far_busier_than_the_others_comes_last() -> None:
    running = {"a": 50, "b": 2, "c": 9, "d": 40}
    assert not_too_busy(["a", "b", "d", "c"], running.__getitem__) == ["b", "c", "d", "a"]
    assert not_too_busy(["b", "a"], {"a": 0, "b": 5}.__getitem__) == ["b", "a"], (
        "what is warm is worth a short queue"
    )
    assert not_too_busy(["a"], running.__getitem__) == ["a"]


def test_changes_have_one_place_however_popular_they_are() -> None:
    assert ranked(PINNED.levels, REPLICAS, seed_of, lambda _: 0.0) == ranked(
        PINNED.levels, list(reversed(REPLICAS)), seed_of, lambda _: 0.0
    )


def test_popularity_forgets() -> None:
    popularity = Popularity()
    popularity.add((7,))
    assert 0 < popularity.share(7) < 0.05, "one request is no crowd"
    for _ in range(1000):
        popularity.add((8,))
    assert (popularity.share(7), popularity.share(8)) == (0, 1)
