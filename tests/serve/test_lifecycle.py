"""From start to exit, as a process: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from support import fake_chat_model
from support.fake_chat_model import wait_until

from ptune.engine.options import EngineOptions
from ptune.errors import PtuneError, UsageError
from ptune.tasks.chat import infer
from ptune_serve import lifecycle
from ptune_serve.http.listen import bind, listen, local_names, start_listening, url_of
from ptune_serve.ui.process import chat_page

GIVE_UP_S = 120  # on a machine however busy


class Process:
    """The fake model's server as a process of its own."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        self.ready_file = tmp_path / "ready"
        command = fake_chat_model.command("--ready-file", str(self.ready_file), *options)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        self.url = self.ready_file.read_text().strip()

    def end(self, *signals: int) -> tuple[int, str]:
        for number in signals:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=GIVE_UP_S)
        return self.process.returncode, output


@pytest.fixture
def start(tmp_path):
    started: list[Process] = []

    def start(*options: str) -> Process:
        started.append(Process(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A file: while it is there, answers of a server that was told of it do not end."""
    (tmp_path / "held").touch()
    return tmp_path / "held"


BODY = {"model": "base", "messages": [{"role": "user", "content": "x"}], "stream": True}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_says_how_to_try_it_and_exits_with_0(start, number):
    server = start()
    assert httpx.get(f"{server.url}/ready").status_code == 200
    code, output = server.end(number)
    assert code == 0
    assert not server.ready_file.exists()
    room, serving, try_it = output.splitlines()
    assert room == "Room for 2 sequences at once"
    assert serving == f"Serving base, pirate, devil at {server.url}/v1"
    assert try_it.startswith(f"Try: curl {server.url}/v1/chat/completions ")


def test_the_printed_command_works(start):
    server = start()
    assert server.process.stdout is not None
    [command] = [
        line for line in (server.process.stdout.readline() for _ in range(3)) if line.startswith("Try: ")
    ]
    body = re.search(r"-d '(.*)'$", command.strip())
    header = re.search(r"-H '(.*?): (.*?)'", command)
    assert body is not None
    assert header is not None
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=body[1], headers={header[1]: header[2]}
    )
    assert "devil heard: Hello!" in response.text


def test_a_running_stream_ends_well_and_new_requests_are_refused(start, held):
    server = start("--held", str(held))
    with (
        httpx.Client(base_url=server.url) as other,
        other.stream("POST", "/v1/chat/completions", json=BODY) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: other.get("/ready").status_code == 503)
        assert other.get("/health").status_code == 200
        refused = other.post("/v1/chat/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        held.unlink()
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert server.end()[0] == 0


def test_a_stream_that_takes_too_long_ends_with_an_error(start, held):
    server = start("--held", str(held), "--drain-limit-s", "0.2")
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=BODY, timeout=GIVE_UP_S) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
    assert last["error"]["code"] == "shutting_down"
    assert server.end()[0] == 0


def test_a_second_signal_does_not_wait(start, held):
    server = start("--held", str(held), "--drain-limit-s", "600")
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=BODY, timeout=GIVE_UP_S) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        code, output = server.end(signal.SIGTERM)
        assert "shutting_down" in list(lines)[-2]
    assert code == 0
    assert "Traceback" not in output


def test_a_stuck_step_makes_the_server_unhealthy_and_does_not_keep_it(start):
    server = start("--stuck", "--step-limit-s", "0.2", "--close-limit-s", "0.2")
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    for path in ("/health", "/ready"):
        response = httpx.get(f"{server.url}{path}")
        assert response.json()["error"]["code"] == "unhealthy"
        assert "over the limit of 0.2 s" in response.json()["error"]["message"]
    assert server.process.stdout is not None
    assert any(line.startswith("unhealthy: a step") for line in server.process.stdout), (
        "logged without being asked"
    )
    server.process.send_signal(signal.SIGTERM)
    code, output = server.end()
    assert code == 1
    assert "has not ended within 0.2 s: exiting without it" in output


def test_a_long_step_within_its_limit_is_well(start):
    server = start("--stuck", "--close-limit-s", "0.2")
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_the_log_as_json(start):
    server = start("--log-json")
    httpx.get(f"{server.url}/health", headers={"x-request-id": "asked-1"})
    code, output = server.end(signal.SIGTERM)
    assert code == 0
    [line] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert (line["request_id"], line["route"], line["status"]) == ("asked-1", "/health", 200)


def test_keys_guard_the_server(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alpha\n")
    server = start("--api-key-file", str(keys))
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    entitled = {"authorization": "Bearer alpha"}
    for host in ({}, {"host": "models.example"}):
        assert httpx.get(f"{server.url}/v1/models", headers=entitled | host).status_code == 200
    code, output = server.end(signal.SIGTERM)
    assert code == 0
    assert "Bearer KEY" in output
    assert "alpha" not in output


@pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")
def test_the_chat_page_lives_as_long_as_the_server(start):
    server = start("--ui")
    lines = (server.process.stdout.readline() for _ in range(4))
    [page] = [line.removeprefix("Chat page: ").strip() for line in lines if line.startswith("Chat page: ")]
    response = httpx.get(page)
    assert response.status_code == 200
    assert "img-src 'self'" in response.headers["content-security-policy"]
    assert server.end(signal.SIGTERM) == (0, "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_without_gradio_a_line_says_so(monkeypatch, capfd):
    monkeypatch.setattr("ptune_serve.ui.process.find_spec", lambda name: None)
    with chat_page("http://127.0.0.1:1", "127.0.0.1", 0):
        assert "pip install 'ptune[ui]'" in capfd.readouterr().out


def test_a_taken_port_ends_the_process_in_one_line(tmp_path):
    with listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        command = fake_chat_model.command("--port", port)
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_S)
    assert done.returncode == 1
    assert done.stdout == f"port {port} of 127.0.0.1 is in use; choose another port, or 0 for any free one\n"
    assert done.stderr == ""


def test_a_port_in_use_is_one_sentence():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PtuneError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_none_is_one_sentence(host):
    with pytest.raises(PtuneError, match=f"cannot listen on {host} port 0"):
        listen(host, 0)


@pytest.mark.parametrize("port", [70_000, 65_536, -1])
def test_a_port_that_is_none_is_one_sentence(port):
    with pytest.raises(PtuneError, match=f"port {port} does not exist: a port is a number from 0 to 65535"):
        listen("127.0.0.1", port)


def test_of_two_that_were_bound_at_once_one_listens():
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", one.getsockname()[1]) as two:
        start_listening(one)
        with pytest.raises(PtuneError, match=f"port {one.getsockname()[1]} of 127.0.0.1 is in use"):
            start_listening(two)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_it_loads_it_lets_nobody_in_and_can_be_stopped(number):
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = fake_chat_model.command("--load-s", "600", "--port", str(port))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health")
        process.send_signal(number)
        assert list(process.communicate(timeout=GIVE_UP_S)) == ["Stopped before it was ready.\n", None]
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kv_gb", [-1, 0, 1e9])
def test_a_cache_that_no_memory_holds_is_one_sentence(kv_gb):
    with pytest.raises(UsageError, match=r"--kv-gb must be over 0 and within the memory of"):
        lifecycle.serve(Path("bundle"), port=0, ui=False, options=EngineOptions(kv_bytes=int(kv_gb * 2**30)))


def test_a_cache_that_finds_no_memory_is_one_sentence(monkeypatch):
    def load(bundle, **options):
        raise MemoryError("Unable to allocate 1.00 GiB for an array")

    monkeypatch.setattr(infer, "load", load)
    with pytest.raises(
        UsageError, match=r"a KV cache of 1 GB do not fit into memory; choose a smaller --kv-gb"
    ):
        lifecycle.serve(Path("bundle"), port=0, ui=False)


def test_a_local_server_without_keys_answers_only_to_its_own_names(start, tmp_path):
    """Else a web page whose name resolves to 127.0.0.1 could read what the model says."""
    server = start()
    port = server.url.rpartition(":")[2]
    for path in ("/health", "/v1/models"):
        for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", "[::1]", f"[::1]:{port}"):
            assert httpx.get(server.url + path, headers={"host": host}).status_code == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil", ""):
            response = httpx.get(server.url + path, headers={"host": host})
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "unknown_host"
    assert (
        httpx.post(f"{server.url}/v1/chat/completions", json=BODY, headers={"host": "x"}).status_code == 400
    )


def test_names_of_a_local_server():
    local = {"localhost", "127.0.0.1", "[::1]"}
    with bind("127.0.0.2", 0) as bound:
        assert local_names("Named.Local", bound) == local | {"127.0.0.2", "named.local"}
    with bind("0.0.0.0", 0) as bound:
        assert local_names("0.0.0.0", bound) == set()


def test_urls():
    with listen("127.0.0.1", 0) as local:
        assert url_of(local) == f"http://127.0.0.1:{local.getsockname()[1]}"
    with listen("0.0.0.0", 0) as every:
        assert url_of(every).startswith("http://127.0.0.1:")


def test_the_server_imports_no_torch_and_no_gradio():
    code = "import sys, ptune_serve.lifecycle; print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'peft', 'datasets', 'gradio'}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ).strip() == "[]"
