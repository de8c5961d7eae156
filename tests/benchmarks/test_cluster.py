"""The simulated cluster answers every request once, and its queue is what arithmetic says of a small one."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.cluster import ROUTES, Cluster, Replica, Request, Times, Traffic

TIMES = Times(
    step=0.01, sequence=0.002, adapter=0.001, prompt_token=0.001, load=0.05, adapters_in_memory=2, on_the_way=0.5
)  # fmt: skip
TRAFFIC = Traffic(clients=4, think_s=1.0, new_tokens=(2, 5), rows=2, kept_prefixes=3)


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_every_turn_is_answered_once(route: str) -> None:
    cluster = Cluster(ROUTES[route](), 3, 5, 2, TIMES, TRAFFIC)
    cluster.run()
    turns = Counter((request.conversation, request.turn) for request in cluster.done)
    assert turns == Counter((conversation, turn) for conversation in range(24) for turn in range(3))
    for request in cluster.done:
        assert request.answered == request.new_tokens
        assert request.asked_s < request.first_s <= request.done_s
        assert request.to_read == 0


def test_one_replica_needs_no_routing() -> None:
    found = [Cluster(make(), 1, 5, 3, TIMES, TRAFFIC).run() for make in ROUTES.values()]
    assert found[0] == found[1] == found[2]


def test_a_request_alone_takes_its_load_its_prompt_and_a_step_for_each_token() -> None:
    replica = Replica("one", TIMES, TRAFFIC)
    request = Request(client=0, adapter=3, conversation=0, turn=0, prompt_tokens=200, new_tokens=3)
    assert replica.accept(request, 0.0) == (False, 0)
    now_s = replica.step(0.0)
    assert now_s == 0.05, "the adapter is there"
    ends = []
    while not request.done_s:
        now_s = replica.step(now_s)
        assert now_s is not None
        ends.append(round(now_s, 6))
        if replica.ended(now_s):
            request.done_s = now_s
    first = 0.05 + 0.01 + 128 * 0.001  # a chunk of the prompt
    second = first + 0.01 + 72 * 0.001 + 0.003  # the rest of it, and the first token
    assert ends == pytest.approx([first, second, second + 0.013, second + 0.026])
    again = Request(client=0, adapter=3, conversation=0, turn=1, prompt_tokens=250, new_tokens=1)
    assert replica.accept(again, now_s) == (True, 203)
    assert again.to_read == 47
