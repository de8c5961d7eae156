"""Idle conversations on disk: the same bits as if nothing had been kept, found by nobody else, and never trusted where damaged."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ptune.engine.decoder.cache import block_folder
from ptune.engine.decoder.cache.block_folder import DiskStats
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import PtuneError, UsageError
from ptune.formats.bundle import Bundle, CacheType

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

GREEDY = Sampling(temperature=0)
BLOCK = 256  # tokens that lie in one file
LITTLE = 700  # tokens that are in memory at most


def text(length: int, seed: int) -> tuple[int, ...]:
    return tuple(Random(seed).choices(range(5, 600), k=length))


@pytest.fixture(scope="module")
def both(tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, with an int8 cache, too."""
    from support.int8_cache import give_int8_cache

    folder = tmp_path_factory.mktemp("both") / "bundle"
    shutil.copytree(tiny.folder, folder)
    give_int8_cache(Bundle.open(folder), text(500, 9))
    return folder


def opened(folder: Path, disk: Path | None, cache: CacheType = "float32", **options: Any) -> Engine:
    per_token = Bundle.open(folder).decoder.cache_bytes_per_token(np.dtype(cache).itemsize)
    little = {"threads": 1, "max_rows": 2, "kv_bytes": LITTLE * per_token, "prefill_chunk": 64}
    return Engine.open(
        folder, kv_disk=disk, kv_cache_dtype=cache, replay_golden=False, **{**little, **options}
    )


def answer(engine: Engine, prompt: tuple[int, ...], name: str = "base", tenant: str = "") -> list[Token]:
    request = Request(prompt, name, GREEDY, max_tokens=4, logprobs=3, tenant=tenant)
    return engine.generate_all([request])[0]


def crowd(engine: Engine) -> None:
    """Others, who take all slots and memory."""
    for seed in (101, 102, 103):
        answer(engine, text(330, seed))


def disk_of(engine: Engine) -> DiskStats:
    """Once all that was queued is written."""
    assert engine._idle is not None
    folder = engine._idle.folder
    with folder._changed:
        folder._changed.wait_for(lambda: not folder._queue, timeout=30)
    return folder.stats()


@pytest.mark.parametrize("cache", ["float32", "int8"])
@pytest.mark.parametrize("name", ["base", "wide"])
def test_the_next_turn_has_the_same_bits(both: Path, name: str, cache: CacheType, tmp_path: Path) -> None:
    """After others took its memory, and again after a restart: what an engine says that has seen nothing."""
    first, more = text(400, 1), text(30, 2)
    with closing(opened(both, None, cache)) as engine:
        expected = answer(engine, first, name)
        turn = (*first, *(token.id for token in expected), *more)
    with closing(opened(both, None, cache)) as engine:
        next_turn = answer(engine, turn, name)
    with closing(opened(both, tmp_path, cache)) as engine:
        assert answer(engine, first, name) == expected
        crowd(engine)
        assert disk_of(engine).written_tokens >= BLOCK
        before = engine.stats()
        assert answer(engine, turn, name) == next_turn
        assert engine.stats().reused - before.reused == BLOCK
        assert disk_of(engine).read_tokens == BLOCK
    with closing(opened(both, tmp_path, cache)) as engine:
        assert answer(engine, turn, name) == next_turn
        assert (engine.stats().reused, disk_of(engine).read_tokens) == (BLOCK, BLOCK)


def test_what_memory_has_goes_on_from_disk(tiny: TinyBundle, tmp_path: Path) -> None:
    """A prompt whose beginning is in a slot, and of which the disk has more."""
    long, turn = text(500, 1), (*text(500, 1)[:490], 9)
    with closing(opened(tiny.folder, None)) as engine:
        expected = answer(engine, turn)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        answer(engine, long[:480])
        answer(engine, text(300, 3))
        answer(engine, text(300, 4))  # takes from the end of the first
        answer(engine, (*long[:100], 8, 8, 8))
        assert answer(engine, turn) == expected


def test_an_adapter_is_found_by_what_it_is(tiny: TinyBundle, tmp_path: Path) -> None:
    """Of the same numbers under another name; by none that is another, nor by the base."""
    prompt = text(300, 5)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        expected = answer(engine, prompt, "wide")
    with closing(opened(tiny.folder, tmp_path)) as engine:
        for other in ("base", "narrow"):
            answer(engine, prompt, other)
            assert disk_of(engine).read_tokens == 0
        folder = engine.bundle.adapter_path("wide")
        engine.put("copied", *peft_tensors(folder))
        assert answer(engine, prompt, "copied") == expected
        assert disk_of(engine).read_tokens == BLOCK


def peft_tensors(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.numpy import load_file

    from ptune.formats.whole_write import read_json

    return read_json(folder / "adapter_config.json"), load_file(folder / "adapter_model.safetensors")


def test_what_one_tenant_left_another_does_not_find(tiny: TinyBundle, tmp_path: Path) -> None:
    prompt = text(300, 6)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        expected = answer(engine, prompt, tenant="ann")
    with closing(opened(tiny.folder, tmp_path)) as engine:
        assert answer(engine, prompt, tenant="bob") == expected
        assert disk_of(engine).read_tokens == 0
        crowd(engine)
        assert answer(engine, prompt, tenant="ann") == expected
        assert disk_of(engine).read_tokens == BLOCK


@pytest.mark.parametrize("changes", [{"kv_cache_dtype": "int8"}, {"kernels": "off"}, {"threads": 2}])
def test_what_would_have_other_bits_is_not_found(both: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    prompt = text(300, 7)
    with closing(opened(both, tmp_path)) as engine:
        answer(engine, prompt)
    cache = changes.pop("kv_cache_dtype", "float32")
    with closing(opened(both, tmp_path, cache, **changes)) as engine:
        plain = engine.form is not None and engine.form.kernels is None
        if changes == {"kernels": "off"} and not plain:
            pytest.skip("ptune-kernels is not installed")
        answer(engine, prompt)
        assert disk_of(engine).read_tokens == 0


def test_other_memory_and_slots_find_the_same(tiny: TinyBundle, tmp_path: Path) -> None:
    prompt = text(300, 7)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        expected = answer(engine, prompt)
    with closing(opened(tiny.folder, tmp_path, max_rows=5, kv_bytes=1 << 24, prefill_chunk=32)) as engine:
        assert answer(engine, prompt) == expected
        assert disk_of(engine).read_tokens == BLOCK


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[Random(0).randrange(len(content))] ^= 4
    file.write_bytes(content)


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def of_another(file: Path) -> None:
    """A whole file under a wrong name."""
    other = next(one for one in file.parent.glob("*.kv") if one != file)
    shutil.copyfile(other, file)


@pytest.mark.parametrize("harm", [cut, emptied, flipped, longer, of_another])
def test_a_damaged_file_is_computed_again(
    tiny: TinyBundle, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    prompt = text(300, 8)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        expected = answer(engine, prompt)
    (file,) = tmp_path.glob("*.kv")
    with closing(opened(tiny.folder, tmp_path)) as engine:
        answer(engine, text(300, 9))
    harm(file)
    harmed = file.read_bytes()
    with closing(opened(tiny.folder, tmp_path)) as engine:
        assert answer(engine, prompt) == expected
        found = disk_of(engine)
        assert (found.damaged, found.read_tokens) == (1, 0)
        assert answer(engine, text(300, 10))[-1].error is None, "nothing of it is left in memory"
    assert file.read_bytes() != harmed, "written anew at the end"
    with closing(opened(tiny.folder, tmp_path)) as engine:
        assert answer(engine, prompt) == expected
        assert disk_of(engine).read_tokens == BLOCK


def test_files_are_for_the_servers_user_alone(tiny: TinyBundle, tmp_path: Path) -> None:
    with closing(opened(tiny.folder, tmp_path / "made" / "here")) as engine:
        answer(engine, text(300, 1))
    folder = tmp_path / "made" / "here"
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_full_disk_costs_no_answer(
    tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise PtuneError("the disk is full")

    with closing(opened(tiny.folder, None)) as engine:
        expected = answer(engine, text(300, 1))
    monkeypatch.setattr(block_folder, "whole_file", full)
    with closing(opened(tiny.folder, tmp_path)) as engine:
        for _ in range(2):
            assert answer(engine, text(300, 1)) == expected
            crowd(engine)
        assert disk_of(engine).dropped_tokens >= 2 * BLOCK
    assert [record.message for record in caplog.records if "idle" in record.message] == [
        "idle conversations are not kept: the disk is full"
    ]
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_is_refused(tiny: TinyBundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--kv-disk .*file.* cannot be used"):
        opened(tiny.folder, tmp_path / "file")


def test_answers_go_on_while_a_text_is_read(tiny: TinyBundle, tmp_path: Path) -> None:
    """One block a step: who is being answered gets a token with each."""
    long = text(500, 1)
    roomy: dict[str, Any] = {"max_rows": 4, "kv_bytes": 1 << 24}
    with closing(opened(tiny.folder, tmp_path, **roomy)) as engine:
        expected = answer(engine, (*long, 7))
    with closing(opened(tiny.folder, tmp_path, **roomy)) as engine:
        stream = engine.generate(Request(text(10, 2), "base", GREEDY, max_tokens=200))
        next(stream)
        assert answer(engine, (*long, 7)) == expected
        assert [token.error for token in stream][-1] is None
        assert disk_of(engine).read_tokens == BLOCK


def mixed(random: Random, count: int) -> list[Request]:
    """Conversations that go on, fork and end, under three adapters, sampled, as beams and with prompt log-probabilities."""
    found = []
    for _ in range(count):
        prompt = text(480, random.randint(0, 3))[: random.choice((200, 270, 400, 480))]
        prompt += text(random.randint(1, 20), random.randint(50, 60))
        request = Request(
            prompt,
            random.choice(("base", "base", "wide")),
            Sampling(temperature=random.choice((0.0, 1.0)), seed=random.randint(0, 3)),
            max_tokens=random.choice((2, 11)),
            logprobs=2,
            tenant=random.choice("ab"),
            prompt_logprobs=random.choice((None, None, 0)),
        )
        if random.random() < 0.15:
            request = replace(request, beams=Beams(2), sampling=GREEDY, prompt_logprobs=None, logprobs=None)
        found.append(request)
    return found


def test_a_crowd_says_the_same_with_and_without(tiny: TinyBundle, tmp_path: Path) -> None:
    """To the bit of the base; four engines in turn on one folder that is too small for all."""
    requests = mixed(Random(0), 48)

    def said(engine: Engine) -> list[list[Any]]:
        found = []
        for at in range(0, len(requests), 8):
            part = requests[at : at + 8]
            answers = engine.generate_all(part)
            found += [
                [(token.id, token.logprob if request.adapter == "base" else 0.0) for token in answered]
                for request, answered in zip(part, answers, strict=True)
            ]
        return found

    per_token = Bundle.open(tiny.folder).decoder.cache_bytes_per_token()
    limit = 6 * (BLOCK * (8 + per_token) + 40)
    room: dict[str, Any] = {"max_rows": 4, "kv_bytes": 1300 * per_token}
    with closing(opened(tiny.folder, None, **room)) as engine:
        expected = said(engine)
    read = 0
    for _ in range(3):
        with closing(opened(tiny.folder, tmp_path, **room, kv_disk_bytes=limit)) as engine:
            assert said(engine) == expected
            read += disk_of(engine).read_tokens
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= limit
    assert read > 4 * BLOCK
