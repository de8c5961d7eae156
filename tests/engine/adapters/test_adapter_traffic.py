"""Thirty adapters, memory for five: every request is answered, each as its adapter answers alone."""

from __future__ import annotations

import queue
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.fake_chat_model import wait_until
from support.tiny_bundle import TinyBundle, write_adapter

from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import Adapter, factor_bytes
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import Bundle

COUNT, FIT = 30, 5
GREEDY = Sampling(temperature=0)
NAMES = [f"a{number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def many(tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Thirty random adapters of one size; codec and prompts are no matter here."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copytree(tiny.folder, folder / "bundle")
    bundle = Bundle.open(folder / "bundle")
    bundle.write_manifest(bundle.manifest.model_copy(update={"adapters": {}}))
    for seed, name in enumerate(NAMES):
        write_adapter(
            folder / name,
            tiny.models["base"],
            seed=100 + seed,
            r=2,
            lora_alpha=4,
            target_modules=["q_proj", "down_proj"],
        )
        install(bundle, folder / name, name)
    return bundle


def prompt(number: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(number).integers(5, 600, 4 + number % 9).tolist())


@pytest.fixture(scope="module")
def alone(many: Bundle) -> dict[tuple[str, int], list[int]]:
    """What each adapter answers to each of three prompts with all of them in memory, one request at a time."""
    with closing(Engine.open(many, threads=1, max_rows=6, replay_golden=False)) as engine:
        assert len(engine.in_memory) == COUNT
        return {
            (name, number): [token.id for token in engine.generate(_request(name, number))]
            for name in NAMES
            for number in range(3)
        }


def _request(name: str, number: int) -> Request:
    return Request(prompt(number), name, GREEDY, max_tokens=5)


@pytest.fixture
def small(many: Bundle) -> Iterator[Engine]:
    limit = FIT * factor_bytes(many.adapter_path("a0"))
    with closing(
        Engine.open(many, threads=1, max_rows=6, adapter_bytes=limit, replay_golden=False)
    ) as engine:
        yield engine


def test_no_request_is_dropped_and_every_answer_is_right(
    small: Engine, alone: dict[tuple[str, int], list[int]]
) -> None:
    """Zipf traffic from eight clients, some of whom go away."""
    limit = small.adapter_stats().limit_bytes
    assert limit is not None
    assert small.in_memory == NAMES[:FIT]
    wrong: list[tuple[str, int, list[int]]] = []
    most = [0]

    def client(seed: int) -> None:
        draw = random.Random(seed)
        weights = [1 / (rank + 1) for rank in range(COUNT)]
        for _ in range(25):
            [name], number = draw.choices(NAMES, weights), draw.randrange(3)
            tokens = small.generate(_request(name, number))
            if draw.random() < 0.15:
                tokens.close()
                continue
            found = [token.id for token in tokens]
            if found != alone[name, number]:
                wrong.append((name, number, found))
            most[0] = max(most[0], small.adapter_stats().bytes)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(120)
        assert not thread.is_alive()
    assert wrong == []
    assert most[0] <= limit
    assert small.drain(20)
    wait_until(lambda: not small.adapter_stats().wanted)  # one may still be read for a client who has gone
    stats = small.adapter_stats()
    assert stats.loads > COUNT // 2
    assert stats.hits > 0
    assert stats.load_s > 0
    assert stats.in_memory == FIT
    small._registry._cache.make_room(limit)  # nobody holds one still
    assert small.adapter_stats().bytes == 0


def test_all_at_once_need_more_than_there_is_room_for(
    small: Engine, alone: dict[tuple[str, int], list[int]]
) -> None:
    answers = small.generate_all([_request(name, 1) for name in NAMES])
    assert [[token.id for token in answer] for answer in answers] == [alone[name, 1] for name in NAMES]
    assert small.logits([prompt(0)] * COUNT, NAMES)[0].shape[0] == len(prompt(0))


def test_others_go_on_while_an_adapter_is_read(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    go, reading = threading.Event(), threading.Event()
    load = small._registry._load

    def slow(*arguments: object) -> Adapter:
        reading.set()
        assert go.wait(60)
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(small._registry, "_load", slow)
    came: queue.SimpleQueue[Token] = queue.SimpleQueue()
    colds = [small.submit(_request("a20", 0), came.put) for _ in range(3)]
    assert reading.wait(20)
    loads = small.adapter_stats().loads
    assert len(list(small.generate(_request("a4", 0)))) == 5, "one that is in memory is answered meanwhile"
    assert len(list(small.generate(_request("base", 0)))) == 5
    assert came.empty()
    assert small.stats().waiting == 3
    colds[0].cancel()
    assert came.get(timeout=120).finish == "cancelled"
    go.set()
    ends = [token.finish for token in (came.get(timeout=120) for _ in range(10)) if token.finish]
    assert ends == ["length", "length"]
    assert small.adapter_stats().loads == loads + 1, "read once for all who asked"


def test_one_that_is_damaged_ends_its_own_requests_only(many: Bundle, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(many.folder, tmp_path / "bundle"))
    limit = FIT * factor_bytes(bundle.adapter_path("a0"))
    with closing(Engine.open(bundle, threads=1, adapter_bytes=limit, replay_golden=False)) as engine:
        (bundle.adapter_path("a25") / "adapter_model.safetensors").write_bytes(b"nothing")
        [last] = list(engine.generate(_request("a25", 0)))
        assert last.finish == "error"
        assert len(list(engine.generate(_request("a26", 0)))) == 5
        waits = engine.generate(Request(prompt(0), "a0", GREEDY, max_tokens=400))
        next(waits)
    assert [token.finish for token in waits][-1] == "cancelled"


def test_close_ends_those_whose_adapter_is_being_read(many: Bundle) -> None:
    limit = FIT * factor_bytes(many.adapter_path("a0"))
    engine = Engine.open(many, threads=1, adapter_bytes=limit, replay_golden=False)
    go = threading.Event()
    load = engine._registry._load
    engine._registry._load = lambda *arguments: (go.wait(60), load(*arguments))[1]
    waits = engine.generate(_request("a20", 0))
    threading.Timer(0.2, go.set).start()
    engine.close()
    assert [token.finish for token in waits] == ["cancelled"]
