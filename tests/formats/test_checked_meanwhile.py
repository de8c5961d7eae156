"""Weights are checked beside the work on them, and what is damaged is never used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.bundles import tiny_bundle

from ptune.engine.decoder.engine import Engine
from ptune.errors import FormatError
from ptune.formats.bundle import FP32, Bundle
from ptune.formats.checked_meanwhile import checked_meanwhile


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path)[2]


def damage(bundle: Bundle, name: str) -> None:
    path = bundle.folder / "graphs" / FP32 / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_whole_is_used(bundle: Bundle) -> None:
    with checked_meanwhile(bundle, bundle.manifest.graphs[FP32].files) as checked:
        checked.result(60)


def test_damaged_weights_explain_what_else_failed(bundle: Bundle) -> None:
    damage(bundle, "model.onnx.data")
    with (
        pytest.raises(FormatError, match=r"model\.onnx\.data is damaged"),
        checked_meanwhile(bundle, bundle.manifest.graphs[FP32].files),
    ):
        raise ValueError("cannot be loaded")


def test_a_damaged_graph_is_not_opened(bundle: Bundle) -> None:
    damage(bundle, "model.onnx")
    entered = False
    with (
        pytest.raises(FormatError, match=r"model\.onnx is damaged"),
        checked_meanwhile(bundle, bundle.manifest.graphs[FP32].files),
    ):
        entered = True
    assert not entered


def test_an_engine_on_damaged_weights_is_closed(bundle: Bundle) -> None:
    damage(bundle, "model.onnx.data")
    before = set(threading.enumerate())
    with pytest.raises(FormatError, match=r"model\.onnx\.data is damaged"):
        Engine.open(bundle)
    assert set(threading.enumerate()) == before
