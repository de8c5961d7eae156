"""An encoder whose adapters do not all fit into memory: the same numbers, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from support.encoder_bundles import tiny
from support.fake_chat_model import wait_until

from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import HEAD, EncoderEngine
from ptune.errors import AdapterError, RequestError

INPUTS = 12


def limit() -> int:
    """Bytes that hold either adapter, but not both."""
    folders = [tiny().bundle.adapter_path(name) for name in ("mood", "names")]
    return max(
        (folder / HEAD).stat().st_size + (folder / "adapter_model.safetensors").stat().st_size
        for folder in folders
    )


def opened() -> EncoderEngine:
    """Golden vectors of both adapters are replayed."""
    return EncoderEngine.open(tiny().bundle, threads=1, max_rows=4, adapter_bytes=limit())


def test_mixed_traffic_is_what_peft_computes() -> None:
    with closing(opened()) as engine:
        assert len(engine.in_memory) == 1
        pairs = [(index % INPUTS, name) for index in range(3 * INPUTS) for name in ("mood", "names")]
        found = engine.logits([Item(tiny().inputs[index], name) for index, name in pairs])
        for (index, name), logits in zip(pairs, found, strict=True):
            np.testing.assert_allclose(logits, tiny().expected(index, name), atol=2e-5)
        stats = engine.adapter_stats()
        assert stats.bytes <= limit()
        assert stats.loads >= 3
        assert engine.drain(20)
        engine._registry._cache.make_room(limit())  # nobody holds one still
        assert engine.adapter_stats().bytes == 0


def test_who_waits_for_an_adapter_hears_when_it_is_dropped_or_all_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(opened()) as engine:
        [there] = engine.in_memory
        gone = "names" if there == "mood" else "mood"
        go = threading.Event()
        load = engine._registry._load
        monkeypatch.setattr(engine._registry, "_load", lambda *asked: (go.wait(60), load(*asked))[1])
        waits: list[Future[Any]] = [engine.submit(Item(tiny().inputs[0], gone)) for _ in range(3)]
        assert engine.stats().waiting == 3
        assert waits[0].cancel()
        engine.drop_adapter(gone)
        for one in waits[1:]:
            with pytest.raises(RequestError, match="was dropped"):
                one.result(60)
        go.set()
        engine.load_adapter(gone)
        go.clear()
        other = next(name for name in ("mood", "names") if name not in engine.in_memory)
        last = engine.submit(Item(tiny().inputs[0], other))
        closer = threading.Thread(target=engine.close)
        closer.start()
        wait_until(lambda: engine._closing)
        go.set()
        closer.join()
    with pytest.raises(CancelledError):
        last.result(0)


def test_a_limit_below_one_adapter_is_told() -> None:
    with pytest.raises(AdapterError, match="bytes of memory; all together may take 1000"):
        EncoderEngine.open(tiny().bundle, threads=1, adapter_bytes=1000)
