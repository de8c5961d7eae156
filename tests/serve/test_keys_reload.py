"""The file of keys, read again while the server runs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from support import fake_chat_model
from support.fake_chat_model import wait_until

from ptune.errors import RequestError
from ptune_serve.access import auth
from ptune_serve.access.auth import ApiKeys

TOML = """
[[keys]]
name = "bob"
key = "bobs-own-key"
"""


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def watched(tmp_path):
    clock = SimpleNamespace(now_s=0.0)
    path = written(tmp_path / "keys", TOML)
    keys = ApiKeys.read(path, clock=lambda: clock.now_s)

    def later(text: str) -> None:
        fresh = written(path.with_name("fresh"), text)
        os.replace(fresh, path)
        clock.now_s += auth.CHECK_INTERVAL_S

    return SimpleNamespace(keys=keys, path=path, later=later, clock=clock)


def test_a_changed_file_is_read_again(watched):
    watched.keys.check("Bearer bobs-own-key")
    watched.later("another")
    assert watched.keys.check("Bearer another")
    with pytest.raises(RequestError):
        watched.keys.check("Bearer bobs-own-key")


@pytest.mark.parametrize("text", ["", "# none\n", "two words", "[[keys]]\nname", '{"name": 1}'])
def test_a_damaged_file_changes_nothing_and_is_logged_once(watched, caplog, text):
    watched.later(text)
    for _ in range(3):
        assert watched.keys.check("Bearer bobs-own-key").name == "bob"
        watched.clock.now_s += auth.CHECK_INTERVAL_S
    assert caplog.text.count("the API keys stay as they were") == 1
    watched.later("repaired")
    assert watched.keys.check("Bearer repaired")


def test_a_file_that_is_gone_changes_nothing(watched, caplog):
    watched.path.unlink()
    watched.clock.now_s += auth.CHECK_INTERVAL_S
    assert watched.keys.check("Bearer bobs-own-key")
    assert "stay as they were" in caplog.text


def test_the_file_is_not_looked_at_for_every_request(watched, monkeypatch):
    looks = []
    monkeypatch.setattr(auth, "_fingerprint", lambda path: looks.append(path))
    for _ in range(50):
        watched.keys.check("Bearer bobs-own-key")
    assert not looks


@pytest.fixture
def started(tmp_path):
    """Starts a server as a process of its own: its URL, and the process."""
    processes = []

    def start(*options: str) -> tuple[str, subprocess.Popen[str]]:
        ready = tmp_path / "ready"
        command = fake_chat_model.command("--ready-file", str(ready), *options)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        wait_until(ready.exists)
        return ready.read_text().strip(), process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_sighup_reads_the_keys_and_does_not_end_the_server(started, tmp_path):
    """The file's time and size stay the same, so only the signal can tell."""
    path = written(tmp_path / "keys", "alpha")
    url, process = started("--api-key-file", str(path))
    assert httpx.get(f"{url}/v1/models", headers=bearer("alpha")).status_code == 200
    before = path.stat()
    with path.open("r+") as file:
        file.write("gamma")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: httpx.get(f"{url}/v1/models", headers=bearer("gamma")).status_code == 200)
    assert httpx.get(f"{url}/v1/models", headers=bearer("alpha")).status_code == 401
    process.terminate()
    assert process.wait(120) == 0


@pytest.mark.parametrize(
    ("host", "keyed", "warned"),
    [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)],
)
def test_a_server_that_others_can_reach_without_a_key_says_so(started, tmp_path, host, keyed, warned):
    options = ["--api-key-file", str(written(tmp_path / "keys", "alpha"))] if keyed else []
    _, process = started("--host", host, *options)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert ("other machines can reach 0.0.0.0" in errors) == warned
    assert ("--api-key-file" in errors) == warned
