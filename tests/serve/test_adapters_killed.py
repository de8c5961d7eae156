"""A real server, really killed: what it said yes to is there when it starts again, and whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
from support.living_adapters import Process, completed, living, token_ids, upload

from ptune.formats.bundle import Bundle

ADDED = 3  # adapters that the server has said yes to before it is killed


def test_what_was_registered_survives_sigkill(tmp_path: Path) -> None:
    there = living(tmp_path)
    folders = {name: there.adapter(name, seed=seed) for seed, name in enumerate(("one", "two", "three"), 20)}
    ready = tmp_path / "ready"
    server = Process(there.folder, ready, "--adapter-root", str(there.outside), "--adapter-bytes", "60kB")
    try:
        assert upload(server.http, folders["one"], "one", alias="prod").status_code == 200
        assert server.http.post("/v1/adapters", json={"name": "two", "path": "two"}).status_code == 200
        assert server.http.delete("/v1/adapters/wide").status_code == 200
    finally:
        server.kill()
    server = Process(there.folder, ready)
    try:
        assert [one["name"] for one in server.http.get("/v1/adapters").json()["data"]] == [
            "narrow",
            "one",
            "two",
        ]
        for model, name in (("one", "one"), ("two", "two"), ("prod", "one"), ("narrow", "narrow")):
            assert token_ids(completed(server.http, model)) == there.greedy(name)
        added = _until_killed(server, folders["three"])
    finally:
        server.kill()
    bundle = Bundle.open(there.folder)
    assert set(added) <= set(bundle.manifest.adapters), "what was answered with 200 is there"
    for name in bundle.manifest.adapters:
        files = {f"adapters/{name}/{file}": digest for file, digest in bundle.adapter(name).files.items()}
        bundle.check_files(files)
    server = Process(there.folder, ready)
    try:
        assert [one["name"] for one in server.http.get("/v1/adapters").json()["data"]] == [
            *bundle.manifest.adapters
        ]
        for name in added[-1:]:
            assert token_ids(completed(server.http, name)) == there.greedy("three")
        assert upload(server.http, folders["three"], "last").status_code == 200
        assert [path.name for path in (there.folder / "adapters").glob(".*")] == [], "of the interrupted call"
    finally:
        server.kill()


def _until_killed(server: Process, folder: Path) -> list[str]:
    """Adds adapters until the server dies of SIGKILL in the middle of it. Returns those that it said yes to."""
    added: list[str] = []
    more = threading.Event()

    def kill() -> None:
        more.wait(60)
        time.sleep(0.02)  # into the next call
        server.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while True:
            name = f"more{len(added)}"
            if upload(server.http, folder, name).status_code == 200:
                added.append(name)
                if len(added) == ADDED:
                    more.set()
    except httpx.TransportError:
        pass
    killer.join()
    assert len(added) >= ADDED
    server.process.wait()
    return added
