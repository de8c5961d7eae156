"""OpenAI's Files API: the `openai` package, unmodified; what is refused, and whose files are whose."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.batch_lines import Filing, filing, jsonl, line, many
from support.error_forms import said
from support.fake_chat_model import FakeChatModel

from ptune.errors import UsageError
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import plain
from ptune_serve.app import create_app
from ptune_serve.files.disk_space import DiskSpace
from ptune_serve.files.store import FilesOptions, FileStore
from ptune_serve.service import Settings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Filing]:
    with filing(tmp_path / "kept", options={"max_file_bytes": 20_000, "max_bytes": 100_000}) as server:
        yield server


def refused(server: Filing, content: bytes, **fields: Any) -> Any:
    """The error of an upload."""
    with pytest.raises(openai.APIStatusError) as raised:
        server.client.files.create(**{"file": ("asked.jsonl", content), "purpose": "batch", **fields})
    return raised.value


def test_a_file_is_uploaded_read_listed_and_deleted(server: Filing) -> None:
    files, content = server.client.files, many(3)
    file = files.create(file=("asked.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == (
        "file",
        len(content),
        "asked.jsonl",
        "batch",
    )
    assert file.expires_at == file.created_at + 30 * 24 * 3600
    assert files.retrieve(file.id) == file
    assert files.content(file.id).content == content
    second = files.create(
        file=("b.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert second.expires_at == second.created_at + 3600
    assert [one.id for one in files.list()] == [second.id, file.id]
    assert [one.id for one in files.list(order="asc", limit=1)] == [file.id, second.id]  # page by page
    assert [one.id for one in files.list(purpose="batch_output")] == []
    deleted = files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    for gone in (files.retrieve, files.content, files.delete):
        with pytest.raises(openai.NotFoundError, match="is kept here for this key"):
            gone(file.id)


BAD: list[tuple[bytes, str, str]] = [
    (b"", "the file is empty", "empty_file"),
    (b"\n\n", "the file is empty", "empty_file"),
    (jsonl(line("a")) + b"{", "line 2: not valid JSON", "invalid_json"),
    (jsonl(line("a")) + b"\xff\xfe\n", "line 2: not valid JSON", "invalid_json"),
    (b'{"custom_id": "\\ud800"}', "line 1: not valid JSON", "invalid_json"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "line 1: ", "line_too_large"),
    (b'{"a":' * 500 + b"1" + b"}" * 500, "line 1: not valid JSON", "invalid_json"),
    (jsonl(line("a"), [1]), "line 2: ", "invalid_value"),
    (jsonl({**line("a"), "custom_id": 5}), "line 1: custom_id: ", "invalid_value"),
    (jsonl({**line("a"), "custom_id": ""}), "line 1: custom_id: ", "invalid_value"),
    (jsonl({**line("a"), "method": "GET"}), "line 1: method: ", "invalid_value"),
    (jsonl({**line("a"), "extra": 1}), "line 1: extra: there is no such field", "invalid_value"),
    (jsonl({**line("a"), "body": "hi"}), "line 1: body: ", "invalid_value"),
    (jsonl({name: value for name, value in line("a").items() if name != "body"}), "line 1: body: ", "invalid_value"),
    (jsonl(line("a", url="/v1/images")), "line 1: url '/v1/images' is not one that batches are for here", "invalid_url"),
    (jsonl(line("a", url="/v1/adapters")), "line 1: url '/v1/adapters'", "invalid_url"),
    (jsonl(line("a"), line("b"), line("a")), "line 3: custom_id 'a' is that of line 1", "duplicate_custom_id"),
    (jsonl(line("a"), line("b", stream=True)), "line 2: a batch has no streams", "invalid_value"),
    (jsonl(line("a"), line("b", "x" * 9000)), "line 2: it is over 8096 bytes", "line_too_large"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message", "code"), BAD, ids=[message for _, message, _ in BAD])
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, message: str, code: str) -> None:
    with filing(tmp_path, max_body_bytes=4000) as server:
        error = refused(server, content)
        assert error.status_code == 400
        assert error.body["message"].startswith(message)
        assert error.code == code
        assert "\n" not in error.body["message"]
        assert not list((tmp_path / "files").iterdir()), "nothing of it is kept"


def test_what_is_no_upload_is_refused(server: Filing) -> None:
    assert "purpose: must be 'batch'" in refused(server, many(1), purpose="fine-tune").message
    assert refused(server, b"x" * 20_001).code == "file_too_large"
    assert refused(server, b"x" * 200_000).status_code == 413
    assert (
        "must be from 3600"
        in refused(server, many(1), expires_after={"anchor": "created_at", "seconds": 60}).message
    )
    http = openai.DefaultHttpxClient(base_url=server.url)
    assert http.post("/v1/files", json={}).status_code == 415
    assert "file: the form has no file" in said(
        http.post("/v1/files", files={"purpose": b"x"}, data={"file": "x"}).json()
    )
    missing = http.post("/v1/files", files={"file": ("a.jsonl", many(1))})
    assert said(missing.json()) == "purpose: must be 'batch', since files are for batches here (is missing)"
    strange = {"origin": "http://elsewhere.example"}
    sent = http.post(
        "/v1/files", files={"file": ("a.jsonl", many(1))}, data={"purpose": "batch"}, headers=strange
    )
    assert sent.status_code == 403


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit: must be a number from 1 to 10000 (is '0')"),
        ("limit=many", "limit: must be"),
        ("order=up", "order: must be desc or asc"),
        ("after=file-x", "after: must be the id of an entry"),
        ("porpoise=batch", "porpoise: there is no such field"),
    ],
)
def test_a_list_is_asked_for_rightly(server: Filing, query: str, message: str) -> None:
    answer = openai.DefaultHttpxClient(base_url=server.url).get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert message in said(answer.json())


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A server whose batches do not run."""
    store = FileStore(FilesOptions(tmp_path_factory.mktemp("kept")))
    app = create_app(FakeChatModel(), Settings(files=store, max_body_bytes=2**16))
    return TestClient(app, raise_server_exceptions=False)


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": st.text(max_size=4) | st.integers(),
        "method": st.sampled_from(["POST", "GET", None]),
        "url": st.sampled_from(["/v1/chat/completions", "/v1/batches", ""]) | st.text(max_size=4),
        "body": st.dictionaries(st.sampled_from(["stream", "n", "model"]), st.booleans() | st.none())
        | st.none(),
    },
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.lists(ENTRIES.map(json.dumps).map(str.encode) | st.binary(max_size=30), max_size=4).map(b"\n".join))
def test_any_file_is_stored_or_refused(strict: TestClient, content: bytes) -> None:
    files = {"file": ("a.jsonl", content)}
    answer = strict.post("/v1/files", files=files, data={"purpose": "batch"})
    assert answer.status_code in (200, 400), answer.text
    assert answer.status_code == 200 or said(answer.json())


JSON = {"content-type": "application/json"}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
BATCHES = st.fixed_dictionaries(
    {},
    optional={
        "input_file_id": ANY,
        "endpoint": st.just("/v1/chat/completions") | ANY,
        "completion_window": st.just("24h") | st.from_regex(r"[0-9]{1,5}h?\Z") | ANY,
        "metadata": ANY,
        "output_expires_after": ANY,
    },
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(BATCHES | ANY)
def test_any_batch_is_refused_in_a_sentence(strict: TestClient, body: Any) -> None:
    answer = strict.post("/v1/batches", content=json.dumps(body), headers=JSON)
    assert answer.status_code in (400, 404), answer.text
    assert said(answer.json())


def test_files_have_a_bound(server: Filing) -> None:
    most = jsonl(*(line(str(number), "x" * 900) for number in range(18)))
    for _ in range(5):
        server.uploaded(most)
    error = refused(server, most)
    assert (error.status_code, error.code) == (507, "no_room")
    assert "of the 100000 that files may take here (--files-bytes)" in error.message
    server.client.files.delete(next(iter(server.client.files.list())).id)
    server.uploaded(most)


def test_files_are_counted_while_others_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileStore, "_expire", lambda store: None)  # it goes through them, too
    with FilesOptions(tmp_path / "kept").opened() as store:
        store.add("a", "first.jsonl", io.BytesIO(b"1"))
        later: list[threading.Thread] = []

        class Arriving(dict[str, Any]):
            """Another upload ends while these are gone through."""

            def values(self) -> Any:
                for file in super().values():
                    yield file
                    if not later:
                        later.append(
                            threading.Thread(target=store.add, args=("b", "b.jsonl", io.BytesIO(b"2")))
                        )
                        later[0].start()
                        later[0].join(0.2)

        store._files = Arriving(store._files)
        store.add("a", "second.jsonl", io.BytesIO(b"3"))
        later[0].join()
        assert (len(store.of_key("a")), len(store.of_key("b"))) == (2, 1)


def test_a_key_has_half_of_the_room_and_sees_its_own_files(tmp_path: Path) -> None:
    keys = ApiKeys((plain("one-key", "one"), plain("other-key", "other")))
    content = jsonl(*(line(str(number), "x" * 900) for number in range(20)))
    with filing(tmp_path, api_key="one-key", options={"max_bytes": 100_000}, api_keys=keys) as server:
        mine = [server.uploaded(content) for _ in range(2)]
        assert refused(server, content).code == "no_room"
        other = server.client.with_options(api_key="other-key")
        theirs = other.files.create(file=("asked.jsonl", content), purpose="batch").id
        assert [one.id for one in other.files.list()] == [theirs]
        for gone in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                gone(mine[0])
        with pytest.raises(openai.NotFoundError):
            other.batches.create(
                input_file_id=mine[0], endpoint="/v1/chat/completions", completion_window="24h"
            )


def test_what_takes_room_and_what_gives_it_back() -> None:
    space = DiskSpace(100)
    space.take("anybody", "a", 60)
    space.take("anybody", "a", 70)  # it grew
    with pytest.raises(Exception, match="31 bytes more do not fit: 30 are left"):
        space.take("anybody", "b", 31)
    space.free("a")
    space.take("anybody", "b", 100)
    space.take("anybody", "b", 100)


def test_files_are_there_after_a_restart_until_their_time_is_over(tmp_path: Path) -> None:
    with filing(tmp_path) as server:
        file_id = server.uploaded(many(2))
        now_s = server.store.clock()
    (tmp_path / "files" / "file-torn.jsonl").write_bytes(b"left over from an upload")
    (tmp_path / "files" / ".file-x.jsonl.abc.part").write_bytes(b"the same")
    (tmp_path / "files" / "file-damaged.json").write_bytes(b"{")
    with filing(tmp_path) as server:
        assert [one.id for one in server.client.files.list()] == [file_id]
        assert server.client.files.content(file_id).content == many(2)
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert names == {"file-damaged.json", f"{file_id}.json", f"{file_id}.jsonl"}
    with filing(tmp_path, clock=lambda: now_s + 31 * 24 * 3600) as server:
        assert list(server.client.files.list()) == []
        assert not (tmp_path / "files" / f"{file_id}.jsonl").exists()


def test_other_users_of_the_machine_read_nothing(server: Filing) -> None:
    for folder in ("files", "batches"):
        assert (server.store.folder / folder).stat().st_mode & 0o077 == 0


def test_a_folder_is_for_one_server(tmp_path: Path) -> None:
    with (
        FilesOptions(tmp_path).opened(),
        pytest.raises(UsageError, match="another server uses this folder"),
        FilesOptions(tmp_path).opened(),
    ):
        pass
    with FilesOptions(tmp_path).opened():
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"), FilesOptions(tmp_path / "file").opened():
        pass


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/file-1/content"),
        ("POST", "/v1/batches"),
    ],
)
def test_a_server_without_files_says_how_to_have_them(method: str, path: str) -> None:
    answer = TestClient(create_app(FakeChatModel())).request(method, path, content=json.dumps({}))
    assert answer.status_code == 404
    assert (
        said(answer.json()) == "this server keeps no files and runs no batches; start it with --files FOLDER"
    )
