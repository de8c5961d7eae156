"""Readers of a bundle: what they forgive, and what they refuse in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptune.errors import FormatError
from ptune.formats.bundle import AdapterRecord, BaseIdentity, Bundle, Graph, Manifest
from ptune.formats.run import Run, RunRecord
from ptune.formats.signature import CacheLayer, Signature, Socket
from ptune.formats.whole_write import sha256_of, write_json

SIGNATURE = Signature(
    vocab_size=10,
    context=32,
    cache=(CacheLayer(kv_heads=2, key_dim=4, value_dim=4),) * 2,
    sockets=(Socket(name="layers.0.q", in_features=8, out_features=8),),
)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "base": BaseIdentity(hash="0" * 64, source="x"),
        "signature": SIGNATURE,
        "graphs": {"fp32": Graph(profile="fp32", files={})},
        "codec": {},
        "golden": {},
    }
    return Manifest(**(fields | changes))


def write(folder: Path, **changes: Any) -> Path:
    write_json(folder / "manifest.json", manifest().model_dump(mode="json") | changes)
    return folder


def test_round_trip(tmp_path: Path) -> None:
    assert Bundle.open(write(tmp_path)).manifest == manifest()


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    assert Bundle.open(write(tmp_path, colour="blue")).manifest == manifest()


def test_another_major_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="format 2; this ptune reads format 1"):
        Bundle.open(write(tmp_path, format=2))


def test_a_wrong_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json is damaged: signature\.vocab_size"):
        Bundle.open(write(tmp_path, signature={"vocab_size": "many"}))


@pytest.mark.parametrize(("make", "words"), [(False, "no bundle at"), (True, "has no manifest.json")])
def test_no_bundle(make: bool, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    if make:
        folder.mkdir()
    with pytest.raises(FormatError, match=words):
        Bundle.open(folder)


def test_unknown_profile_and_adapter_list_what_there_is(tmp_path: Path) -> None:
    bundle = Bundle.open(write(tmp_path))
    with pytest.raises(FormatError, match="it has fp32"):
        bundle.graph_path("int3")
    with pytest.raises(FormatError, match="it has none"):
        bundle.adapter("x")


def test_a_changed_adapter_record_is_found(tmp_path: Path) -> None:
    record = AdapterRecord(name="a", rank=4)
    path = tmp_path / "adapters" / "a" / "adapter.json"
    write_json(path, record.model_dump(mode="json"))
    bundle = Bundle.open(write(tmp_path, adapters={"a": sha256_of(path)}))
    assert bundle.adapter("a") == record
    path.write_text(json.dumps(record.model_copy(update={"rank": 5}).model_dump(mode="json")))
    with pytest.raises(FormatError, match=r"adapter\.json is damaged"):
        bundle.adapter("a")


def test_signature_names_are_in_graph_order() -> None:
    assert SIGNATURE.past_names() == ["past_key.0", "past_value.0", "past_key.1", "past_value.1"]
    assert SIGNATURE.present_names()[0] == "present_key.0"
    assert SIGNATURE.factor_names() == ["layers.0.q.A", "layers.0.q.B"]
    assert SIGNATURE.cache_bytes_per_token() == 2 * 4 * 2 * (4 + 4)


def test_run_record_round_trip_and_refusals(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(FormatError, match="no run at"):
        Run.open(run.folder)
    record = RunRecord(created="now", base=BaseIdentity(hash="1", source="x"), status="finished")
    run.write_record(record)
    assert Run.open(run.folder).record() == record
    run.record_path.write_text('{"format": 3}')
    with pytest.raises(FormatError, match="format 3"):
        Run.open(run.folder)
