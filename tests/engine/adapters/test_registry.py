"""The adapters of an engine: checked when they are loaded, replaced and dropped by name."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from pathlib import Path

import pytest
from support.encoder_bundles import damage, tiny

from ptune.engine.adapters.folder import write_record
from ptune.engine.adapters.registry import Load, Registry
from ptune.errors import AdapterError, FormatError, PtuneError, RequestError
from ptune.formats.bundle import AdapterRecord, Bundle


class Loaded:
    """What an engine would make of a folder."""

    def __init__(self, folder: Path, record: AdapterRecord) -> None:
        self.folder, self.record = folder, record


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))


def registry(
    bundle: Bundle, base_answers: bool = True, limit: int | None = None, load: Load[Loaded] = Loaded
) -> Registry[Loaded]:
    """Each adapter takes one byte."""
    return Registry(
        bundle, load, lambda *_: 1, threading.Condition(), base_answers=base_answers, limit_bytes=limit
    )


def taken(held: Registry[Loaded], name: str) -> Loaded:
    """An adapter, waited for."""
    came: queue.SimpleQueue[Loaded | PtuneError] = queue.SimpleQueue()
    held.take(name, came.put)
    found = came.get(timeout=120)
    assert isinstance(found, Loaded)
    return found


def test_adapters_are_taken_replaced_and_dropped(bundle: Bundle) -> None:
    held = registry(bundle)
    assert held.names == []
    held.load_all()
    assert held.names == ["mood", "names"]
    first = taken(held, "mood")
    assert (first.folder, first.record.name) == (bundle.adapter_path("mood"), "mood")
    assert taken(held, "mood") is first
    assert held.record("base") is None
    held.load("mood")
    assert taken(held, "mood") is not first
    held.drop("mood")
    assert held.names == ["names"]
    held.load("mood")  # it is in the bundle still
    assert held.names == ["names", "mood"]
    stats = held.stats()
    assert (stats.hits, stats.loads, stats.in_memory) == (3, 4, 2)


def test_one_that_was_added_since_is_found(bundle: Bundle) -> None:
    held = registry(bundle)
    shutil.copytree(bundle.adapter_path("mood"), bundle.adapter_path("mood").with_name("second"))
    write_record(bundle, bundle.adapter("mood").model_copy(update={"name": "second"}))
    held.load("second")
    assert held.bundle.manifest.adapters.keys() == {"mood", "names", "second"}


@pytest.mark.parametrize(("base_answers", "served"), [(True, "base, mood"), (False, "mood")])
def test_a_name_that_is_not_there(bundle: Bundle, base_answers: bool, served: str) -> None:
    held = registry(bundle, base_answers)
    with pytest.raises(RequestError, match=r"no adapter 'gone' here; served: (base|none)$"):
        held.record("gone")
    held.load("mood")
    for ask in (held.record, held.drop, lambda name: held.take(name, print)):
        with pytest.raises(RequestError, match=rf"no adapter 'gone' here; served: {served}$") as caught:
            ask("gone")
        assert (caught.value.status, caught.value.code, caught.value.param) == (
            404,
            "model_not_found",
            "model",
        )
    with pytest.raises(RequestError, match="the base cannot be dropped"):
        held.drop("base")


def test_what_cannot_be_loaded_changes_nothing(bundle: Bundle) -> None:
    held = registry(bundle)
    held.load_all()
    before = taken(held, "mood")
    damage(bundle.adapter_path("mood") / "adapter_model.safetensors")
    with pytest.raises(FormatError, match=r"adapter_model\.safetensors is damaged"):
        held.load("mood")
    write_record(bundle, bundle.adapter("names").model_copy(update={"base": "f" * 64}))
    with pytest.raises(AdapterError, match="'names' was trained on another base"):
        held.load("names")
    with pytest.raises(FormatError):
        held.load("gone")
    assert taken(held, "mood") is before
    assert held.names == ["mood", "names"]


def test_the_engines_own_lock_may_be_held(bundle: Bundle) -> None:
    changed, came = threading.Condition(), list[Loaded | PtuneError]()
    held: Registry[Loaded] = Registry(bundle, Loaded, lambda *_: 1, changed, base_answers=True)
    with changed:
        held.load("mood")
        held.take("mood", came.append)
        held.drop("mood")
    assert len(came) == 1


def test_beyond_the_limit_one_is_read_again_once_for_all_who_ask(bundle: Bundle) -> None:
    go, read = threading.Event(), []

    def load(folder: Path, record: AdapterRecord) -> Loaded:
        read.append(record.name)
        assert len(read) < 2 or go.wait(20)
        return Loaded(folder, record)

    held = registry(bundle, limit=1, load=load)
    held.load_all()
    assert (held.names, held.in_memory, read) == (["mood", "names"], ["mood"], ["mood"])
    came: queue.SimpleQueue[Loaded | PtuneError] = queue.SimpleQueue()
    for _ in range(3):
        held.take("names", came.put)
    go.set()
    found = {came.get(timeout=120) for _ in range(3)}
    assert (len(found), held.in_memory, read) == (1, ["names"], ["mood", "names"])
    assert (held.stats().bytes, held.stats().hits) == (1, 0)
    held.close()
    held.close()


def test_what_is_used_stays_and_who_wants_its_place_waits(bundle: Bundle) -> None:
    held = registry(bundle, limit=1)
    held.load_all()
    first = taken(held, "mood")
    came: queue.SimpleQueue[Loaded | PtuneError] = queue.SimpleQueue()
    held.take("names", came.put)
    while held.in_memory:  # `mood` is given to nobody any more
        time.sleep(0.01)
    held.take(
        "mood", came.put
    )  # behind it: else those who keep asking for `mood` would keep it there for ever
    assert came.empty()
    assert held.stats().bytes == 1
    held.give_back(first)
    second = came.get(timeout=120)
    assert isinstance(second, Loaded)
    assert second.record.name == "names"
    held.give_back(second)
    third = came.get(timeout=120)
    assert isinstance(third, Loaded)
    assert third is not first
    assert third.record.name == "mood"
    held.close()


def test_who_waits_for_one_that_cannot_be_read_learns_it(bundle: Bundle) -> None:
    held = registry(bundle, limit=1)
    held.load_all()
    damage(bundle.adapter_path("names") / "adapter_model.safetensors")
    came: queue.SimpleQueue[Loaded | PtuneError] = queue.SimpleQueue()
    held.take("names", came.put)
    assert "adapter_model.safetensors is damaged" in str(came.get(timeout=120))
    assert taken(held, "mood").record.name == "mood"
    held.take("names", came.put)  # waits for the place of `mood`
    held.drop("names")
    assert "'names' was dropped" in str(came.get(timeout=120))
    held.close()


def test_an_adapter_larger_than_the_limit_is_refused(bundle: Bundle) -> None:
    with pytest.raises(AdapterError, match=r"'mood' takes 1 bytes of memory; all together may take 0"):
        registry(bundle, limit=0).load_all()


def put(held: Registry[Loaded], name: str, size: int = 1) -> Loaded:
    served = Loaded(Path("nowhere"), AdapterRecord(name=name))
    held.put(served.record, served, size)
    return served


def test_what_was_put_stays_until_it_is_dropped_and_counts_its_versions(bundle: Bundle) -> None:
    held = registry(bundle, limit=2)
    held.load_all()
    first = put(held, "policy")
    assert taken(held, "policy") is first
    assert held.put(AdapterRecord(name="other"), Loaded(Path("nowhere"), AdapterRecord(name="other")), 1) == 1
    with pytest.raises(
        AdapterError, match="'third' takes 1 bytes of memory; all together may take 2, of which 2 are"
    ):
        put(held, "third")
    held.drop("other")
    with pytest.raises(
        AdapterError, match=r"'policy' takes 2 bytes of memory, and 1 of 2 are in use by requests"
    ):
        put(held, "policy", 2)
    assert taken(held, "policy") is first
    for _ in range(2):
        held.give_back(first)
    second = put(held, "policy", 2)
    assert taken(held, "policy") is second
    held.drop("policy")
    assert held.names == ["mood", "names"]
    served = Loaded(Path("nowhere"), AdapterRecord(name="policy"))
    held.give_back(second)
    assert held.put(served.record, served, 1) == 3
    held.close()


def test_one_that_is_put_keeps_the_prompt_of_the_one_before(bundle: Bundle) -> None:
    prompt = {"own_prompt": True, "template": "{{ messages }}", "system": "Be kind."}
    write_record(bundle, bundle.adapter("mood").model_copy(update=prompt))
    held = registry(Bundle.open(bundle.folder))
    held.load_all()
    put(held, "mood")
    record = held.record("mood")
    assert record is not None
    assert {field: getattr(record, field) for field in prompt} == prompt
    assert (record.task, record.files) == ("chat", {})


def test_what_is_read_while_one_is_put_is_not_served(bundle: Bundle) -> None:
    reading, go = threading.Event(), threading.Event()

    def load(folder: Path, record: AdapterRecord) -> Loaded:
        if record.name == "names":
            reading.set()
            assert go.wait(20)
        return Loaded(folder, record)

    held = registry(bundle, limit=1, load=load)
    held.load_all()
    came: queue.SimpleQueue[Loaded | PtuneError] = queue.SimpleQueue()
    held.take("names", came.put)
    assert reading.wait(20)
    with pytest.raises(AdapterError, match=r"are in use by requests"):
        put(held, "names")  # what is being read has its room
    held._cache.limit_bytes = 2
    served = put(held, "names")
    assert came.get(timeout=120) is served
    go.set()
    assert taken(held, "names") is served
    held.close()
