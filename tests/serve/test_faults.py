"""What goes wrong around a server and in its engine: one line and an exit code, or one batch that fails and nobody else."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.fake_chat_model import wait_until
from support.living_adapters import PROMPT, Living, Process, completed, living, token_ids, upload

import ptune
from ptune.cli import main
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling
from ptune_serve import lifecycle
from ptune_serve.app import create_app
from ptune_serve.http.listen import listen

LONG = [*range(3, 43)]  # tokens; more than are worth a copy


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def copied(there: Living, tmp_path: Path) -> Path:
    """The bundle, to be damaged."""
    shutil.copytree(there.folder, tmp_path / "mine")
    return tmp_path / "mine"


def refused(
    bundle: Path, *options: str, limit: Callable[[], None] | None = None, code: int = 1, timeout_s: float = 90
) -> str:
    """Runs `ptune serve`, which must end by itself, with one line that is no traceback."""
    command = [sys.executable, "-m", "ptune", "serve", str(bundle), "--port", "0", "--no-ui", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, preexec_fn=limit)
    assert done.returncode == code, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: ")
    return line


def test_a_port_in_use(there: Living) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in refused(there.folder, "--port", port)


Refused = Callable[..., str]


@pytest.fixture
def refused_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """refused_here(bundle, *options, code=1): as `refused`, in this process."""

    def served(*_: object, **__: object) -> None:
        pytest.fail("it is served")

    monkeypatch.setattr(lifecycle, "run", served)

    def refused(bundle: Path, *options: str, code: int = 1) -> str:
        assert main(["serve", str(bundle), "--port", "0", "--no-ui", *options]) == code
        [line] = [line for line in capsys.readouterr().err.splitlines() if line]
        assert line.startswith("error: ")
        return line

    return refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--api-key-file", "missing"], "cannot read the API keys"),
        (["--adapter-bytes", "much"], "--adapter-bytes 'much': a size is needed"),
        (["--adapter-root", "."], "it needs --adapters-api"),
        (["--step-limit-s", "nan"], "--step-limit-s must be over 0 seconds (is nan)"),
    ],
)
def test_a_bad_option(there: Living, refused_here: Refused, options: list[str], words: str) -> None:
    assert words in refused_here(there.folder, *options, code=2)


def test_no_bundle_and_no_such_profile(there: Living, refused_here: Refused, tmp_path: Path) -> None:
    assert str(tmp_path) in refused_here(tmp_path)
    assert "int8" in refused_here(there.folder, "--profile", "int8")


def rewritten(path: Path) -> None:
    """One byte is another; as many as before."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("graphs/fp32/model.onnx", rewritten),
        ("codec/tokenizer.json", rewritten),
        ("golden/golden.json", rewritten),
        ("adapters/wide/adapter_model.safetensors", rewritten),
        ("adapters/wide/adapter_config.json", Path.unlink),
        ("graphs/fp32/model.onnx", Path.unlink),
    ],
)
def test_a_damaged_bundle_is_refused_by_the_files_name(
    copied: Path, refused_here: Refused, file: str, harm: Callable[[Path], None]
) -> None:
    harm(copied / file)
    assert Path(file).name in refused_here(copied)


def test_a_cut_manifest(copied: Path) -> None:
    manifest = copied / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    assert f"{manifest} is damaged" in refused(copied)


def test_too_little_memory(there: Living) -> None:
    """Under a limit of address space, as in a container, a KV cache that does not fit is a sentence."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    said = refused(
        there.folder, "--kv-gb", "6", "--max-rows", "20000", "--threads", "1", limit=little, code=2
    )
    assert "do not fit into memory; choose a smaller --kv-gb" in said


def full_disk() -> None:
    """No file may grow: what a full disk does, but for the error's number."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_a_full_disk_at_the_start(there: Living, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    assert f"cannot write {ready}" in refused(there.folder, "--ready-file", str(ready), limit=full_disk)


def test_a_full_disk_while_it_serves(there: Living, tmp_path: Path) -> None:
    """An adapter that does not fit onto the disk is refused; the bundle is as before and everybody is answered."""
    folder = there.adapter("third", seed=31)
    before = (there.folder / "manifest.json").read_bytes()
    server = Process(there.folder, tmp_path / "ready")
    try:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        response = upload(server.http, folder, "third")
        assert response.status_code == 507, response.text
        assert response.json()["error"]["code"] == "not_stored"
        assert "/" not in response.json()["error"]["message"], "a path of the server"
        assert token_ids(completed(server.http, "narrow")) == there.greedy("narrow")
        assert (there.folder / "manifest.json").read_bytes() == before
    finally:
        server.kill()
    assert "Traceback" not in server.said.read_text()


# In the engine


class Spoils:
    """onnxruntime's session, whose run writes rubbish wherever it may and fails, once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_with_iobinding(self, binding: object) -> None:
        for array in self._engine._cache._arrays.values():
            array += np.float32(7)
        raise RuntimeError("bad allocation")


@pytest.fixture
def engine(there: Living) -> Iterator[Engine]:
    with closing(Engine.open(there.folder, threads=1, max_rows=3)) as engine:
        yield engine


def answer(engine: Engine, adapter: str = "base", prompt: list[int] = LONG) -> list[Any]:
    request = Request(tuple(prompt), adapter, Sampling(temperature=0), max_tokens=5)
    return [token.id if token.finish != "error" else "error" for token in engine.generate(request)]


def spoil(engine: Engine) -> None:
    """The next step, with adapters or without, fails."""
    graphs = engine._step.graphs
    for session in (graphs.whole, graphs.bare, graphs.grouped, graphs.grouped_bare):
        if session is not None:
            session._load()
            session._session = Spoils(engine)


def test_after_a_failed_step_nothing_is_believed_that_it_may_have_touched(
    there: Living, engine: Engine
) -> None:
    expected = {name: there.tiny.greedy(LONG, name, 5) for name in ("base", "wide")}
    assert {name: answer(engine, name) for name in expected} == expected  # and now it is in the prefix cache
    reused = engine.stats().reused
    spoil(engine)
    assert answer(engine, "narrow") == ["error"]
    assert engine.metrics.failed == 1
    assert {name: answer(engine, name) for name in expected} == expected, (
        "computed anew, on a session loaded anew"
    )
    assert engine.stats().reused == reused, "nothing was found in the cache"
    assert answer(engine) == expected["base"]
    assert engine.stats().reused > reused, "and what was computed since is trusted again"
    assert engine.adapter_stats().in_memory == 2


def at_rest(engine: Engine) -> bool:
    """It leaves its last sequence just after that has its answer."""
    stats = engine.stats()
    return (stats.running, stats.waiting, stats.kv_used_tokens) == (0, 0, 0)


def test_a_failed_step_fails_its_batch_only(there: Living, engine: Engine) -> None:
    """Those who wait for a slot while a step fails are answered."""
    request = Request(tuple(PROMPT), "base", Sampling(temperature=0), max_tokens=5)
    with engine._changed:  # all six are there before the first step
        streams = [engine.generate(request) for _ in range(6)]
        spoil(engine)
    answers = [list(stream) for stream in streams]
    failed = [tokens for tokens in answers if tokens[-1].finish == "error"]
    assert len(failed) == 3, "one for each slot"
    right = [[token.id for token in tokens] for tokens in answers if tokens not in failed]
    assert right == [there.tiny.greedy(PROMPT, "base", 5)] * 3
    wait_until(lambda: at_rest(engine))


def test_what_was_not_a_number_is_not_kept(there: Living, engine: Engine, monkeypatch: Any) -> None:
    """A row whose logits are no numbers leaves nothing for the next one that begins alike."""
    compute = engine._step.__call__
    spoiled: list[int] = []

    def broken(chunks: Any) -> Any:
        columns = compute(chunks)
        if not spoiled:
            spoiled.append(1)
            for array in engine._cache._arrays.values():
                array[:] = np.nan
            for column in columns:
                column[:] = np.nan
        return columns

    monkeypatch.setattr(engine, "_step", broken)
    assert answer(engine) == ["error"]
    assert answer(engine) == there.tiny.greedy(LONG, "base", 5)


def test_an_engine_that_only_fails_is_unhealthy(there: Living) -> None:
    model = ptune.load(there.folder, threads=1, max_rows=2)
    with closing(model), TestClient(create_app(model)) as http:
        for _ in range(3):
            assert http.get("/health").status_code == 200
            spoil(model.engine)
            failed = completed(http, "base")
            assert failed.status_code == 500
            assert failed.json()["error"]["code"] == "engine_error"
        for path in ("/health", "/ready"):
            response = http.get(path)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "unhealthy"
        assert token_ids(completed(http, "base")) == there.greedy("base")
        assert http.get("/health").status_code == 200


def test_an_engine_whose_thread_has_ended_says_so_and_refuses(
    there: Living, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orchestrator restarts it by /health; whoever was being answered is told, and nobody new waits."""
    model = ptune.load(there.folder, threads=1, max_rows=1)
    step, go_on = model.engine._step, threading.Event()

    def waiting(chunks: Any) -> Any:
        go_on.wait(60)
        return step(chunks)

    def defect() -> Any:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(model.engine, "_step", waiting)
    with closing(model), TestClient(create_app(model)) as http, ThreadPoolExecutor() as pool:
        answers = [pool.submit(completed, http, "base") for _ in range(2)]
        wait_until(lambda: (model.engine.stats().running, model.engine.stats().waiting) == (1, 1))
        monkeypatch.setattr(model.engine, "_next_batch", defect)
        go_on.set()
        for answer in answers:
            response = answer.result(60)
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "engine_error"
        for path in ("/health", "/ready"):
            response = http.get(path)
            assert response.status_code == 503
            assert "a thread of the engine has ended by KeyError" in response.json()["error"]["message"]
        refused = completed(http, "base")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_stopped")
        assert refused.headers["retry-after"]
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_request_that_waits_for_an_adapter_which_is_removed_is_told_so(there: Living) -> None:
    """It had been read out of memory for another one, and is gone before it could be read again."""
    model = ptune.load(there.folder, threads=1, max_rows=2, adapter_bytes=50_000)
    registry = model.engine._registry
    with closing(model), TestClient(create_app(model)) as http:
        [away] = {"wide", "narrow"} - {*model.engine.in_memory}
        begun, go_on = threading.Event(), threading.Event()
        read = registry._read

        def slow(*arguments: Any) -> Any:
            begun.set()
            go_on.wait(120)
            return read(*arguments)

        registry._read = slow
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(completed, http, away)
            assert begun.wait(120)
            model.engine.drop_adapter(away)
            go_on.set()
            response = answer.result()
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert f"adapter '{away}' was removed" in response.json()["error"]["message"]
