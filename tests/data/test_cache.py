"""Large data sets are encoded once, and what is kept of them is never another set's and never damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tokenizers import CHATML, tokenizer

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.config.recipe import Data
from ptune.data.examples import dataset
from ptune.errors import DataError
from ptune.formats import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH_BYTES", 0)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "a.jsonl")


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    tiny = tokenizer()
    return ChatCodec(tiny.backend_tokenizer, tiny.chat_template, tiny.special_tokens_map, (), None)


def write(path: Path, answer: str = "yes", rows: int = 20) -> Path:
    messages = [
        [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": answer}]
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in messages), encoding="utf-8")
    return path


def load(codec, *files, seed=0, task=None, examiner=None, **data):
    return dataset.load(Data(files=files, **data), task or Chat(), codec, seed, examiner)


def stores(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def content(data) -> list[Any]:
    splits = (data.train, data.validation, data.train_conversations, data.validation_conversations)
    return [data.summary, *map(list, splits)]


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Grows with every row that is encoded."""
    rows: list[int] = []
    encode = ChatCodec.encode_examples

    def counted(*a: Any, **k: Any) -> list[Example]:
        rows.append(1)
        return encode(*a, **k)

    monkeypatch.setattr(ChatCodec, "encode_examples", counted)
    return rows


def test_a_set_is_encoded_once(codec, file, folder, encoded, tmp_path, capsys):
    first = content(load(codec, file))
    assert len(encoded) == 20
    said = capsys.readouterr().err
    codec.save(tmp_path / "codec")
    assert content(load(ChatCodec.open(tmp_path / "codec"), file)) == first
    assert len(encoded) == 20
    again = capsys.readouterr().err
    assert f"encoded before: {stores(folder)[0]}" in again
    assert all(line in again for line in said.splitlines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORTH_BYTES", 1 << 30)
        assert content(load(codec, file)) == first


def test_everything_that_examples_depend_on_makes_another_set(codec, file, folder, tmp_path, monkeypatch):
    def other(**changes):
        before = len(stores(folder)) if folder.is_dir() else 0
        monkeypatch.setattr(cache, "KEPT", 99)
        options = {
            "codec": codec,
            "task": Chat(),
            "file": file,
            "validation_share": 0.1,
            "limit": None,
            "seed": 0,
        }
        options |= changes
        load(
            options["codec"], options["file"], seed=options["seed"], task=options["task"],
            limit=options["limit"], validation_share=options["validation_share"],
        )  # fmt: skip
        return len(stores(folder)) > before

    assert other()
    assert not other()
    assert not other(task=Chat(template=Path("somewhere")))  # the codec holds what is in it
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"limit": 3},
        {"validation_share": 0.2},
        {"task": Chat(train_on="last")},
        {"task": Chat(on_overlong="drop")},
        {"task": Chat(max_length=512)},
        {"codec": codec.with_template(CHATML.replace("\n", " "))},
        {"codec": codec.with_template(CHATML, system="Be brief.")},
        {"file": write(tmp_path / "b.jsonl")},
    ]
    for change in changes:
        assert other(**change), change
        assert not other(**change), change
    write(file, answer="no")
    assert other()
    monkeypatch.setattr(cache, "code_hash", lambda *_: "another version")
    assert other()


def test_the_code_of_a_set_is_that_of_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers and shapes lie in folders of their own below data/."""
    package = tmp_path / "ptune"
    inner = package / "data" / "shapes" / "conversations.py"
    for file in (package / "formats" / "cache.py", package / "data" / "read.py", inner):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("A = 1\n", encoding="utf-8")
    monkeypatch.setattr(cache, "__file__", str(package / "formats" / "cache.py"))
    before = cache.code_hash("data")
    assert cache.code_hash("data") == before
    inner.write_text("A = 2\n", encoding="utf-8")
    changed = cache.code_hash("data")
    inner.rename(inner.with_name("moved.py"))
    assert len({before, changed, cache.code_hash("data")}) == 3


@pytest.mark.parametrize("name", ["train/tokens", "validation/ends", "train/conversations", "store.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_set_is_made_anew(codec, file, folder, encoded, name, damage, capsys):
    first = content(load(codec, file))
    path = stores(folder)[0] / name
    raw = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = raw.index(b'"examples": 18') + 13 if name == "store.json" else len(raw) // 2
        flipped = raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]
        path.write_bytes(raw[:-2] if damage == "cut" else flipped)
    assert content(load(codec, file)) == first
    assert len(encoded) == 40
    assert "cannot be used and is made anew" in capsys.readouterr().err
    assert path.read_bytes() == raw
    load(codec, file)
    assert len(encoded) == 40


def test_an_examiner_sees_everything_anew(codec, file, encoded):
    class Counter:
        rows = 0

        def file(self, split, path):
            pass

        def sample(self, split, sample, example):
            self.rows += 1

    load(codec, file)
    counter = Counter()
    load(codec, file, examiner=counter)
    assert (counter.rows, len(encoded)) == (20, 40)


def test_what_cannot_be_used_is_not_kept(codec, file, folder):
    with file.open("a", encoding="utf-8") as opened:
        opened.write("{")
    with pytest.raises(DataError, match=":21: not JSON"):
        load(codec, file)
    assert stores(folder) == []


def _killed_while_encoding(codec, file):
    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(ChatCodec, "encode_examples", kill)
    load(codec, file)


def test_a_killed_process_leaves_nothing_that_harms(codec, file, folder):
    process = multiprocessing.get_context("fork").Process(target=_killed_while_encoding, args=(codec, file))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(stores(folder)) == 1  # half of one, under a temporary name
    load(codec, file)
    (store,) = stores(folder)
    assert not store.name.startswith(".")


def _load(codec, file, queue):
    queue.put(content(load(codec, file)))


def test_of_several_processes_one_encodes(codec, file, folder, monkeypatch, tmp_path):
    log = tmp_path / "log"
    encode = ChatCodec.encode_examples

    def logged(*args, **options):
        with log.open("a") as opened:
            opened.write(".")
        return encode(*args, **options)

    monkeypatch.setattr(ChatCodec, "encode_examples", logged)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(codec, file, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] == found[2]
    assert len(log.read_text()) == 20


def test_only_the_last_few_are_kept(codec, file, folder):
    oldest = load(codec, file)
    for seed in range(cache.KEPT + 2):
        load(codec, file, seed=seed)
        for age, store in enumerate(sorted(stores(folder), key=lambda path: -path.stat().st_mtime)):
            os.utime(store, (1e9 - age, 1e9 - age))
    assert len(stores(folder)) == cache.KEPT
    assert len(list(oldest.train)) == 18  # who has it open may go on


def test_where_nothing_can_be_kept_it_goes_on_without(codec, file, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "taken"))
    assert len(load(codec, file).train) == 18
    assert "nothing is kept in" in capsys.readouterr().err


def test_a_user_without_a_home_goes_on_without(codec, file, monkeypatch, capsys):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("PTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert len(load(codec, file).train) == 18
    assert "there is no home folder" in capsys.readouterr().err
