"""Batches go on where they stood: after SIGKILL, SIGTERM, a torn line, a full disk; each line is answered exactly once."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from support import fake_chat_model
from support.batch_lines import CHAT, Filing, ended, filing, jsonl, line, lines_of, many, said
from support.fake_chat_model import FakeChatModel, wait_until
from support.fake_encoder_model import FakeEncoderModel

from ptune_serve.app import create_encoder_app
from ptune_serve.batches import runner
from ptune_serve.batches.journal import Journal
from ptune_serve.batches.schemas import BatchRequest

COUNT = 60


class Process:
    """The fake model's server, with files, as a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        command = fake_chat_model.command("--ready-file", str(ready), "--files", str(folder / "kept"))
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: ready.exists() or self.process.poll() is not None)
        self.client = openai.OpenAI(
            base_url=f"{ready.read_text().strip()}/v1", api_key="any", max_retries=0, timeout=20
        )

    def begun(self, content: bytes) -> str:
        file = self.client.files.create(file=("asked.jsonl", content), purpose="batch")
        return self.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id

    def answered(self, batch_id: str) -> int:
        counts = self.client.batches.retrieve(batch_id).request_counts
        assert counts is not None
        return counts.completed

    def end(self, number: int) -> int:
        self.client.close()
        self.process.send_signal(number)
        self.process.communicate(timeout=120)
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*options: str) -> Process:
        started.append(Process(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        one.client.close()
        one.process.kill()
        one.process.communicate()


def check_each_once(entries: list[dict[str, Any]], count: int) -> None:
    """Each line has one answer, and that is its own."""
    assert sorted(int(entry["custom_id"]) for entry in entries) == list(range(count))
    assert len({entry["id"] for entry in entries}) == count
    for entry in entries:
        assert said(entry) == f"pirate heard: number {entry['custom_id']}"


def test_a_server_that_is_killed_goes_on(start: Callable[..., Process], tmp_path: Path) -> None:
    """Twice: the second time while it goes on already."""
    server = start("--may-end", "5")
    batch_id = server.begun(many(COUNT))
    for share, more in ((5, ("--may-end", "20")), (25, ())):
        wait_until(partial(lambda server, share: server.answered(batch_id) == share, server, share))
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert journal_of(tmp_path / "kept", batch_id).read_bytes().count(b"\n") == share
        server = start(*more)
    batch = ended(server.client, batch_id)
    assert (batch.status, batch.request_counts.completed) == ("completed", COUNT)
    check_each_once(lines_of(server.client, batch.output_file_id), COUNT)
    assert batch.error_file_id is None


def test_a_server_that_is_told_to_end_finishes_the_lines_in_progress(start: Callable[..., Process]) -> None:
    server = start("--delay-s", "0.01")
    batch_id = server.begun(many(COUNT))
    wait_until(lambda: server.answered(batch_id) >= 3)
    assert server.end(signal.SIGTERM) == 0
    server = start()
    batch = ended(server.client, batch_id)
    assert batch.status == "completed"
    check_each_once(lines_of(server.client, batch.output_file_id), COUNT)


def test_a_full_disk_is_waited_for(start: Callable[..., Process]) -> None:
    """No file may grow beyond some answers; then the disk has room again."""
    server = start()
    batches = server.client.batches
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    few = 4000
    content = many(COUNT)
    file = server.client.files.create(file=("asked.jsonl", content), purpose="batch")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (few, hard))
    batch_id = batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id
    wait_until(lambda: batches.retrieve(batch_id).errors is not None)
    batch = batches.retrieve(batch_id)
    assert batch.status == "in_progress"
    assert batch.errors is not None
    assert batch.errors.data is not None
    (error,) = batch.errors.data
    assert error.code == "not_stored"
    assert (
        error.message
        == "waits until its answers can be written: the server's disk is full, or cannot be written"
    )
    with pytest.raises(openai.APIStatusError) as refused:
        server.client.files.create(file=("more.jsonl", many(100)), purpose="batch")
    assert (refused.value.status_code, refused.value.code) == (507, "not_stored")
    chat = server.client.chat.completions.create(model="pirate", messages=[{"role": "user", "content": "hi"}])
    assert chat.choices[0].message.content == "pirate heard: hi", "others are answered"
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    batch = ended(server.client, batch_id)
    assert (batch.status, batch.errors) == ("completed", None)
    check_each_once(lines_of(server.client, batch.output_file_id), COUNT)


@contextmanager
def interrupted(folder: Path, after: int) -> Iterator[str]:
    """A batch of ten lines whose server ended when so many were answered."""
    model = FakeChatModel()
    model.engine.may_end = after
    with filing(folder, model, batch_lines=1) as server:
        batch_id = server.begun(many(10))
        wait_until(lambda: server.now(batch_id).request_counts.completed == after)
    assert journal_of(folder, batch_id).read_bytes().count(b"\n") == after
    yield batch_id


def journal_of(folder: Path, batch_id: str) -> Path:
    """The file that a batch's answers are written to."""
    state = json.loads((folder / "batches" / f"{batch_id}.json").read_bytes())
    return folder / "files" / f"{state['results_id']}.jsonl"


def completed(server: Filing, batch_id: str) -> None:
    batch = server.ended(batch_id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 10)
    check_each_once(server.lines(batch.output_file_id), 10)


@pytest.mark.parametrize(
    "tear",
    [
        lambda raw: raw,
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:1],
        lambda raw: b"",
        lambda raw: raw + b'{"id": "batch_req_',
        lambda raw: raw + bytes(100),
        lambda raw: raw + b"\n\n",
        lambda raw: raw + raw,
        lambda raw: (
            raw + b'{"id": "batch_req_of_others_1", "custom_id": "x", "response": null, "error": null}\n'
        ),
    ],
)
def test_a_torn_file_is_mended(tmp_path: Path, tear: Callable[[bytes], bytes]) -> None:
    """Whatever is no whole answer of the batch is cut off, and asked for again."""
    with interrupted(tmp_path, 3) as batch_id:
        journal = journal_of(tmp_path, batch_id)
        journal.write_bytes(tear(journal.read_bytes()))
    with filing(tmp_path) as server:
        completed(server, batch_id)


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    with interrupted(tmp_path, 4) as batch_id:
        kept = journal_of(tmp_path, batch_id).read_bytes()
    model = FakeChatModel()
    with filing(tmp_path, model) as server:
        batch = server.ended(batch_id)
        content = server.client.files.content(batch.output_file_id).content
    assert content.startswith(kept)
    assert len(model.engine.requests) == 10 - kept.count(b"\n")


def changed(folder: Path, batch_id: str, **fields: Any) -> None:
    """Writes a batch's state as a server leaves it that is killed at another moment."""
    path = folder / "batches" / f"{batch_id}.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def test_killed_before_it_was_read(tmp_path: Path) -> None:
    with interrupted(tmp_path, 1) as batch_id:
        changed(tmp_path, batch_id, status="validating", total=0)
    with filing(tmp_path) as server:
        completed(server, batch_id)


def test_lines_that_the_next_server_has_no_endpoint_for_are_told(tmp_path: Path) -> None:
    """It was started with another bundle: none of them is lost in silence."""
    with interrupted(tmp_path, 2) as batch_id:
        pass
    with filing(tmp_path, app=lambda settings: create_encoder_app(FakeEncoderModel(), settings)) as server:
        batch = server.ended(batch_id)
        counts = batch.request_counts
        assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 10, 2, 8)
        check_each_once(server.lines(batch.output_file_id), 2)
        refused = {entry["custom_id"]: entry["response"] for entry in server.lines(batch.error_file_id)}
    assert set(refused) == {str(number) for number in range(2, 10)}
    assert {response["status_code"] for response in refused.values()} == {404}
    assert CHAT in refused["2"]["body"]["error"]["message"]


def test_killed_while_it_was_cancelled(tmp_path: Path) -> None:
    with interrupted(tmp_path, 2) as batch_id:
        changed(tmp_path, batch_id, status="cancelling")
    model = FakeChatModel()
    with filing(tmp_path, model) as server:
        batch = server.ended(batch_id)
        assert batch.status == "cancelled"
        assert batch.request_counts.completed == len(server.lines(batch.output_file_id)) == 2
    assert not model.engine.requests


def test_killed_while_it_was_finished(tmp_path: Path) -> None:
    with filing(tmp_path) as server:
        batch_id = server.begun(many(10))
        first = server.ended(batch_id)
    changed(tmp_path, batch_id, status="finalizing", output_file_id=None)
    with filing(tmp_path) as server:
        completed(server, batch_id)
        assert server.now(batch_id).output_file_id == first.output_file_id
    changed(tmp_path, batch_id, status="in_progress", output_file_id=None, completed=0)
    with filing(tmp_path) as server:
        completed(server, batch_id)


def test_a_batch_that_ended_is_as_it_was(tmp_path: Path) -> None:
    with filing(tmp_path) as server:
        batch_id = server.begun(jsonl(line("a"), line("b", model="nobody")))
        before = server.ended(batch_id)
    with filing(tmp_path) as server:
        assert server.now(batch_id) == before
        assert len(server.lines(before.error_file_id)) == 1
    (tmp_path / "batches" / f"{batch_id}.json").write_bytes(b"{")
    with filing(tmp_path) as server, pytest.raises(openai.NotFoundError):
        server.now(batch_id)


def check_expired(server: Filing, batch_id: str, total: int) -> None:
    batch = server.ended(batch_id)
    counts = batch.request_counts
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert batch.completed_at is None
    assert counts.total == counts.completed + counts.failed == total
    late = server.lines(batch.error_file_id)
    assert len(late) == counts.failed > 0
    assert {(entry["response"], entry["error"]["code"]) for entry in late} == {(None, "batch_expired")}
    assert "completion window of 24h was over" in late[0]["error"]["message"]


def test_a_batch_expires_while_the_server_is_down(tmp_path: Path) -> None:
    with interrupted(tmp_path, 2) as batch_id:
        pass
    model = FakeChatModel()
    with filing(tmp_path, model, clock=lambda: 4e9) as server:
        # Its input has expired as well, and is kept for as long as the batch reads it.
        check_expired(server, batch_id, 10)
    assert not model.engine.requests


def test_a_batch_expires_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchRequest, "window_s", 0.5)
    model = FakeChatModel()
    model.engine.go_on.clear()
    with filing(tmp_path, model) as server:
        check_expired(server, server.begun(many(20)), 20)
        wait_until(lambda: model.engine.running == 0)


def test_a_batch_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RETRY_S", 0.05)
    with filing(tmp_path, options={"max_bytes": 6000}) as server:
        other = server.uploaded(jsonl(line("other", "x" * 1000)))
        batch_id = server.begun(many(10))
        wait_until(lambda: server.now(batch_id).errors is not None)
        batch = server.now(batch_id)
        assert batch.errors.data[0].code == "no_room"
        assert "delete files that you no longer need" in str(batch.errors.data[0].message)
        server.client.files.delete(other)
        server.client.batches.cancel(batch_id)
        batch = server.ended(batch_id)
        assert (batch.status, batch.errors) == ("cancelled", None)
        assert server.lines(batch.output_file_id)


def test_a_journal_is_as_before_after_a_failed_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", lambda entry: True)
    journal.append(b'{"a": 1}\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))
    try:
        with pytest.raises(OSError):
            journal.append(b'{"b": 22222}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b'{"a": 1}\n'
    journal.append(b'{"b": 2}\n')
    seen: list[Any] = []

    def is_own(entry: Any) -> bool:
        seen.append(entry)
        return True

    assert Journal(tmp_path / "a", is_own).size_bytes == 18
    assert seen == [{"a": 1}, {"b": 2}]
