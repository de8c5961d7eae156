"""Which bundles are in memory: loaded on demand, unloaded when idle or in the way, never while they are used."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.error_forms import said
from support.fake_chat_model import wait_until
from support.several_bundles import MB, FakeOpening, Several, several, write_all, write_bundle

from ptune.errors import ParityError
from ptune_serve.bundles import bundles as bundles_module

# What opened weights take is predicted as twice their file.
THREE = ("a", "b", "c")


def three(folder: Path, **sizes: int) -> Path:
    for name in THREE:
        write_bundle(folder / name, size_bytes=sizes.get(name, MB))
    return folder


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Several]:
    """Room for two of three bundles."""
    with several(three(tmp_path), budget_bytes=5 * MB) as served:
        yield served


def test_the_least_recently_used_makes_room(narrow: Several) -> None:
    for model in ("a", "b", "a", "c"):
        narrow.said(model)
    assert narrow.loaded == ["a", "c"]
    assert narrow.opening.closed == ["b"]
    narrow.said("b")
    assert narrow.loaded == ["b", "c"]
    assert narrow.host.bundles.table["a"].unloads["room"] == 1


def test_one_that_is_in_use_stays_and_the_other_goes(narrow: Several) -> None:
    narrow.opening.prepare["a"] = lambda engine: engine.go_on.clear()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(narrow.said, "a")
        wait_until(lambda: "a" in narrow.loaded and narrow.opening.engines["a"].running)
        narrow.said("b")
        narrow.said("c")  # `a` was used less recently, but is in use
        assert narrow.loaded == ["a", "c"]
        narrow.opening.engines["a"].go_on.set()
        assert running.result() == "base heard: ahoy"
    assert narrow.opening.closed == ["b"]


def test_where_all_are_in_use_a_request_is_told_to_come_back(narrow: Several) -> None:
    for name in ("a", "b"):
        narrow.opening.prepare[name] = lambda engine: engine.go_on.clear()
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(narrow.said, name) for name in ("a", "b")]
        wait_until(lambda: narrow.loaded == ["a", "b"])
        refused = narrow.chat("c")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "no_room"
        assert "no room for bundle 'c' while requests for a, b" in said(refused.json())
        for name in ("a", "b"):
            narrow.opening.engines[name].go_on.set()
        assert [one.result() for one in running] == ["base heard: ahoy"] * 2
    assert narrow.opening.closed == [], "nothing went in vain"
    assert narrow.said("c")


def test_one_that_is_larger_than_all_room_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with several(three(tmp_path, c=10 * MB), budget_bytes=5 * MB) as served:
        served.said("a")
        refused = served.chat("c")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "bundle_too_large"
        assert "--memory-gb" in said(refused.json())
        assert (served.opening.opened, served.loaded) == (["a"], ["a"])


def test_what_was_measured_counts_from_then_on(tmp_path: Path) -> None:
    """Predicted: 2 MB each. `b` turns out to take 4 MB, so that `a` has to go, and then 6 MB, so that it cannot stay."""
    grows = {"a": 2 * MB, "b": 4 * MB, "c": 6 * MB}
    opening = FakeOpening()

    def measured() -> int:
        return sum(grows[name] for name in opening.opened)

    with several(three(tmp_path), budget_bytes=5 * MB, measured=measured, opening=opening) as served:
        served.said("a")
        served.said("b")
        assert served.loaded == ["b"]
        assert served.host.bundles.table["b"].needed_bytes >= 4 * MB
        refused = served.chat("c")
        assert refused.json()["error"]["code"] == "bundle_too_large"
        assert "c" not in served.loaded
        assert opening.closed == ["a", "b", "c"]
        again = served.chat("c")
        assert again.json()["error"]["code"] == "bundle_too_large"
        assert opening.opened.count("c") == 1, "what it takes is known now"
        assert served.said("a")


def test_requests_for_one_bundle_wait_for_one_load(narrow: Several) -> None:
    narrow.opening.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(narrow.said, "a", str(number)) for number in range(8)]
        wait_until(lambda: narrow.host.bundles.table["a"].users == 8)
        narrow.opening.go_on.set()
        assert [one.result() for one in waiting] == [f"base heard: {number}" for number in range(8)]
    assert narrow.opening.opened == ["a"]


def test_others_are_answered_while_one_is_loaded(narrow: Several) -> None:
    narrow.said("a")
    narrow.opening.go_on.clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(narrow.said, "b")
        wait_until(lambda: narrow.opening.opened == ["a", "b"])
        assert narrow.said("a")
        assert narrow.http.get("/health").status_code == 200
        assert not waiting.done()
        narrow.opening.go_on.set()
        assert waiting.result()


def test_only_so_many_wait(narrow: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles_module, "MAX_WAITING", 2)
    narrow.opening.go_on.clear()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(narrow.said, "a") for _ in range(2)]
        wait_until(lambda: narrow.host.bundles.table["a"].users == 2)
        refused = narrow.chat("a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        narrow.opening.go_on.set()
        assert all(one.result() for one in waiting)


def test_a_deadline_covers_the_wait(narrow: Several) -> None:
    narrow.opening.go_on.clear()
    refused = narrow.http.post(
        "/v1/completions", json={"model": "a", "prompt": "x"}, headers={"x-request-timeout": "0.2"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_exceeded")
    narrow.opening.go_on.set()
    wait_until(lambda: narrow.loaded == ["a"])  # what has begun comes to its end
    wait_until(lambda: narrow.host.bundles.table["a"].users == 0)


def asked_and_left(served: Several, model: str) -> Callable[[], None]:
    """Sends a request; the function that is returned hangs up."""
    body = b'{"model": "%s", "prompt": "x"}' % model.encode()
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection.close


def test_who_goes_away_before_a_loads_turn_takes_it_along(narrow: Several) -> None:
    narrow.opening.go_on.clear()
    table = narrow.host.bundles.table
    with ThreadPoolExecutor() as pool:
        first = pool.submit(narrow.said, "a")
        wait_until(lambda: narrow.opening.opened == ["a"])
        leave = asked_and_left(narrow, "b")
        wait_until(lambda: table["b"].users == 1)
        leave()
        wait_until(lambda: table["b"].users == 0)
        narrow.opening.go_on.set()
        assert first.result()
    assert narrow.said("c")
    assert narrow.opening.opened == ["a", "c"]


def test_a_load_that_everybody_has_left_stays_for_the_next(narrow: Several) -> None:
    narrow.opening.go_on.clear()
    leave = asked_and_left(narrow, "a")
    wait_until(lambda: narrow.opening.opened == ["a"])
    leave()
    wait_until(lambda: narrow.host.bundles.table["a"].users == 0)
    narrow.opening.go_on.set()
    wait_until(lambda: narrow.loaded == ["a"])
    assert narrow.said("a")
    assert narrow.opening.opened == ["a"]


def test_a_bundle_that_fails_its_check_answers_in_a_sentence(
    narrow: Several, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path.resolve() / "a"
    narrow.opening.failures["a"] = ParityError(f"{folder} computes otherwise on this machine")
    narrow.said("b")
    for _ in range(2):
        refused = narrow.chat("a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "bundle_failed")
        assert said(refused.json()) == ("bundle 'a' cannot be loaded: a computes otherwise on this machine")
    assert narrow.opening.opened == ["b", "a"], "not tried again at once"
    assert narrow.http.get("/health").status_code == 200
    index = {one["name"]: one for one in narrow.http.post("/v2/repository/index").json()}
    assert index["a"]["reason"] == "a computes otherwise on this machine"
    assert narrow.loaded == ["b"]
    monkeypatch.setattr(bundles_module, "FAILED_FOR_S", 0.0)
    narrow.opening.failures.clear()
    assert narrow.said("a")
    assert narrow.host.bundles.table["a"].failures == 1


def test_an_unexpected_error_is_told_by_the_log_alone(narrow: Several) -> None:
    narrow.opening.failures["a"] = ZeroDivisionError("secret detail")
    assert said(narrow.chat("a").json()) == "bundle 'a' cannot be loaded: the server's log says why"
    narrow.opening.failures["b"] = MemoryError()
    assert said(narrow.chat("b").json()) == "bundle 'b' cannot be loaded: it does not fit into memory"
    assert narrow.said("c")


def test_an_idle_bundle_is_unloaded(tmp_path: Path) -> None:
    with several(write_all(tmp_path), idle_s=0.05) as served:
        served.said("chat")
        wait_until(lambda: served.loaded == [])
        assert served.host.bundles.table["chat"].unloads == {"idle": 1}
        assert served.said("chat")


def test_a_bundle_in_use_is_not_idle(tmp_path: Path) -> None:
    with several(write_all(tmp_path), idle_s=0.05) as served, ThreadPoolExecutor() as pool:
        served.opening.prepare["chat"] = lambda engine: engine.go_on.clear()
        running = pool.submit(served.said, "chat")
        wait_until(lambda: served.loaded == ["chat"])
        time.sleep(0.3)
        assert served.loaded == ["chat"]
        served.opening.engines["chat"].go_on.set()
        assert running.result() == "base heard: ahoy"
        wait_until(lambda: served.loaded == [])


@pytest.mark.parametrize("keep_alive", [0, "0s", "1ms", 0.001])
def test_ollamas_keep_alive_unloads(tmp_path: Path, keep_alive: object) -> None:
    with several(write_all(tmp_path)) as served:
        body = {"model": "chat", "keep_alive": keep_alive}
        answer = served.http.post("/api/generate", json={**body, "prompt": "hi", "stream": False})
        assert answer.json()["response"] == "base heard: hi"
        wait_until(lambda: served.loaded == [])


@pytest.mark.parametrize(
    "keep_alive",
    [-1, "-1m", "10m", "1h30m", 600, 1e12, pytest.param(10**400, id="no float")],
)
def test_ollamas_keep_alive_keeps(tmp_path: Path, keep_alive: object) -> None:
    with several(write_all(tmp_path), idle_s=0.05) as served:
        body = {"model": "chat", "keep_alive": keep_alive}
        assert served.http.post("/api/generate", json=body).json()["done_reason"] == "load"
        time.sleep(0.3)
        assert served.loaded == ["chat"]
        [model] = served.http.get("/api/ps").json()["models"]
        assert (model["name"], model["size"] > 0) == ("chat:latest", True)
        served.said("chat")  # says nothing about it, so the server's own time counts again
        wait_until(lambda: served.loaded == [])


@pytest.mark.parametrize("keep_alive", ["soon", True, [], "10", "1x"])
def test_what_is_no_duration_is_refused(tmp_path: Path, keep_alive: object) -> None:
    with several(write_all(tmp_path)) as served:
        answer = served.http.post("/api/generate", json={"model": "chat", "keep_alive": keep_alive})
        assert answer.status_code == 400
        assert said(answer.json()).startswith("keep_alive: ")
        assert served.opening.opened == []


def test_a_bundle_in_use_is_not_unloaded_by_hand(narrow: Several) -> None:
    narrow.opening.prepare["a"] = lambda engine: engine.go_on.clear()
    with ThreadPoolExecutor() as pool:
        running: Future[Any] = pool.submit(narrow.said, "a")
        wait_until(lambda: narrow.loaded == ["a"])
        refused = narrow.http.post("/v2/repository/models/a/unload")
        assert refused.status_code == 409
        narrow.opening.engines["a"].go_on.set()
        assert running.result()


def test_a_server_that_ends_lets_go_who_waits_for_a_load(narrow: Several) -> None:
    narrow.opening.go_on.clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(narrow.chat, "a")
        wait_until(lambda: len(narrow.service.running) == 1)
        narrow.service.draining = True
        assert narrow.chat("b").status_code == 503
        [request] = narrow.service.running
        request._task.get_loop().call_soon_threadsafe(request.close)
        answer = waiting.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")


def test_a_model_that_does_not_close_is_left_behind(narrow: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles_module, "CLOSE_LIMIT_S", 0.05)
    hang = threading.Event()
    narrow.said("a")
    narrow.said("b")
    loaded = narrow.host.bundles.loaded("a")
    assert loaded is not None
    loaded.model.close = hang.wait
    refused = narrow.chat("c")  # `a` had to go and still takes its memory; then `b` goes
    assert refused.status_code == 200
    assert narrow.host.bundles.table["a"].state == "unloading"
    assert narrow.loaded == ["c"]
    again = narrow.chat("a")
    assert (again.status_code, again.json()["error"]["code"]) == (503, "bundle_failed")
    assert "hangs" in said(again.json())
    hang.set()


def test_the_health_is_that_of_every_bundle(narrow: Several) -> None:
    narrow.said("a")
    narrow.said("b")
    assert narrow.http.get("/health").json() == {"status": "ok"}
    assert narrow.http.get("/v2/health/ready").json() == {"ready": True}
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), narrow.opening.engines["b"].metrics.step(1):
            raise ZeroDivisionError
    sick = narrow.http.get("/health")
    assert sick.status_code == 503
    assert "bundle b: the engine's last steps have all failed" in said(sick.json())
    assert narrow.http.get("/ready").status_code == 503


def test_an_error_in_a_bundle_is_a_500_with_its_id(narrow: Several) -> None:
    narrow.said("a")
    narrow.opening.engines["a"].failure = "submit"
    answer = narrow.chat("a")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in said(answer.json())
    wait_until(lambda: narrow.host.bundles.table["a"].users == 0)


def test_nothing_keeps_an_unloaded_model_alive(tmp_path: Path) -> None:
    with several(write_all(tmp_path)) as served:
        assert served.said("chat:sql")
        with served.http.stream(
            "POST", "/v1/responses", json={"model": "chat", "input": "hi", "stream": True}
        ) as stream:
            assert "response.completed" in stream.read().decode()
        assert served.classify("sentiment").status_code == 200
        assert served.http.get("/metrics").status_code == 200
        kept = {}
        for name in ("chat", "texts"):
            loaded = served.host.bundles.loaded(name)
            assert loaded is not None
            kept[name] = (weakref.ref(loaded.model), weakref.ref(loaded.app))
            del loaded
            assert served.http.post(f"/v2/repository/models/{name}/unload").status_code == 200
        served.opening.engines.clear()
        gc.collect()
        assert {name: [one() for one in both] for name, both in kept.items()} == {
            "chat": [None, None],
            "texts": [None, None],
        }
