"""The adapters of an engine: checked when they are loaded, replaced and dropped by name."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from encoder_bundles import damage, tiny

from ptune.engine.registry import Registry
from ptune.errors import AdapterError, FormatError, RequestError
from ptune.formats.bundle import AdapterRecord, Bundle
from ptune.publish.adapter_folder import write_record


class Loaded:
    """What an engine would make of a folder."""

    def __init__(self, folder: Path, record: AdapterRecord) -> None:
        self.folder, self.record = folder, record


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))


def registry(bundle: Bundle, base_answers: bool = True) -> Registry[Loaded]:
    return Registry(bundle, Loaded, threading.Condition(), base_answers=base_answers)


def test_adapters_are_found_replaced_and_dropped(bundle: Bundle) -> None:
    held = registry(bundle)
    assert held.names == []
    held.load_all()
    assert held.names == ["mood", "names"]
    first = held.find("mood")
    assert first is not None
    assert (first.folder, first.record.name) == (bundle.adapter_path("mood"), "mood")
    assert held.find("base") is None
    held.load("mood")
    assert held.find("mood") is not first
    held.drop("mood")
    assert held.names == ["names"]
    held.load("mood")  # it is in the bundle still
    assert held.names == ["names", "mood"]


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
        held.find("gone")
    held.load("mood")
    for ask in (held.find, held.drop):
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
    before = held.find("mood")
    damage(bundle.adapter_path("mood") / "adapter_model.safetensors")
    with pytest.raises(FormatError, match=r"adapter_model\.safetensors is damaged"):
        held.load("mood")
    write_record(bundle, bundle.adapter("names").model_copy(update={"base": "f" * 64}))
    with pytest.raises(AdapterError, match="'names' was trained on another base"):
        held.load("names")
    with pytest.raises(FormatError):
        held.load("gone")
    assert held.find("mood") is before
    assert held.names == ["mood", "names"]


def test_the_engines_own_lock_may_be_held(bundle: Bundle) -> None:
    changed = threading.Condition()
    held: Registry[Loaded] = Registry(bundle, Loaded, changed, base_answers=True)
    with changed:
        held.load("mood")
        assert held.find("mood") is not None
        held.drop("mood")
