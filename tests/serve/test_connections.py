"""How many connections one address may have: on a real socket, and for any order of comings and goings."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, serving, wait_until

from ptune.engine.options import EngineOptions
from ptune.errors import RequestError, UsageError
from ptune_serve.app import create_app
from ptune_serve.http.protocol import Addresses
from ptune_serve.lifecycle import serve
from ptune_serve.service import Settings


def test_one_more_is_told_so_and_closed_until_another_ends() -> None:
    with serving(create_app(FakeChatModel()), per_address=2) as url:
        clients = [httpx.Client(base_url=url, timeout=20) for _ in range(2)]
        assert [client.get("/health").status_code for client in clients] == [200, 200]
        refused = httpx.get(f"{url}/health")
        assert refused.status_code == 429
        assert "2 connections from 127.0.0.1 are open already" in said(refused.json())
        assert refused.headers["connection"] == "close"
        assert [client.get("/health").status_code for client in clients] == [200, 200]  # they go on
        clients.pop().close()
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200)
        clients.pop().close()


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "fe80::1%eth0"]), st.booleans())))
def test_it_counts_what_is_open(events: list[tuple[str, bool]]) -> None:
    addresses = Addresses(2)
    open_now: dict[str, list[str]] = {"10.0.0.1": [], "10.0.0.2": [], "fe80::1%eth0": []}
    for client, comes in events:
        held = open_now[client]
        if not comes:
            if held:
                addresses.leave(held.pop())
        elif len(held) == 2:
            with pytest.raises(RequestError, match="open already"):
                addresses.enter(client)
        else:
            held.append(addresses.enter(client))


def test_one_network_of_ipv6_is_one_client() -> None:
    addresses = Addresses(1)
    addresses.enter("2001:db8:1:2::1")
    addresses.enter("2001:db8:1:3::1")
    with pytest.raises(RequestError):
        addresses.enter("2001:db8:1:2:ffff::9")


def test_any_number_where_nothing_is_said() -> None:
    addresses = Addresses()
    assert {addresses.enter("10.0.0.1") for _ in range(1000)} == {"10.0.0.1"}


def test_a_limit_of_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--connections-per-address must be 1 or more \(is 0\)"):
        serve(tmp_path, settings=Settings(connections_per_address=0), options=EngineOptions(kv_bytes=1))
