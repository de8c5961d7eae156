"""Which device computes, and refusals that say what is missing."""

from __future__ import annotations

import logging
import re
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as operators

import ptune.engine.device_choice as choice
from ptune.engine.decoder.engine import Engine
from ptune.engine.device import Device
from ptune.engine.device_choice import Card, device_for, first_card, refusal
from ptune.engine.options import NO_DEVICES, EngineOptions
from ptune.errors import PtuneError, UsageError
from ptune.formats.bundle import Bundle

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

CARD = Card("a card", 1 << 30)
ON_CUDA = EngineOptions(device="cuda", kv_bytes=1 << 20)
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return FAILS; }
int cuDeviceGetCount(int *count) { *count = CARDS; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device == 7 ? "Card 7" : "?", size); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 24ul << 30; return 0; }
"""


@pytest.fixture
def bundle(tiny: TinyBundle) -> Bundle:
    return Bundle.open(tiny.folder)


@pytest.fixture
def gpu_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime as its package for CUDA says that it is."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


def driver(folder: Path, cards: int, fails: int = 0) -> str:
    source, library = folder / "driver.c", folder / "driver.so"
    source.write_text(DRIVER)
    defined = [f"-DCARDS={cards}", f"-DFAILS={fails}"]
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", *defined, "-o", library, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return str(library)


def test_the_driver_names_the_first_card(tmp_path: Path) -> None:
    assert first_card(driver(tmp_path, 2)) == Card("Card 7", 24 << 30)


@pytest.mark.parametrize(("cards", "fails"), [(0, 0), (1, 100)])
def test_a_driver_without_a_card(tmp_path: Path, cards: int, fails: int) -> None:
    assert first_card(driver(tmp_path, cards, fails)) is None


def test_no_driver_and_a_library_that_is_none(tmp_path: Path) -> None:
    assert first_card(str(tmp_path / "missing.so")) is None
    assert first_card("libm.so.6") is None


def test_a_card_that_fits(bundle: Bundle, gpu_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "first_card", lambda: CARD)
    for device in ("cuda", "auto"):
        found = device_for(bundle, "fp32", replace(ON_CUDA, device=device))
        assert found is not None
        assert (found.name, found.provider, found.title) == ("cuda", "CUDAExecutionProvider", "a card")
        assert ("use_tf32", "0") in found.options
    assert device_for(bundle, "fp32", EngineOptions()) is None


@pytest.mark.parametrize(
    ("profile", "changes", "card", "says"),
    [
        ("int8", {}, CARD, "no kernels for the int8 profile.*--profile fp32"),
        ("fp32", {"kv_cache_dtype": "int8"}, CARD, "float16.*--kv-cache-dtype"),
        ("fp32", {"kernels": "own"}, CARD, "--kernels own"),
        ("fp32", {"kernels": "exact"}, CARD, "--kernels exact"),
        ("fp32", {"draft_model": Path("small")}, CARD, "--draft-model"),
        ("fp32", {"kv_disk": Path("idle")}, CARD, "--kv-disk"),
        ("fp32", {}, None, "finds no card"),
        ("fp32", {"kv_bytes": 2 << 30}, CARD, r"--kv-gb 2 are more than the 1\.1 GB of a card"),
    ],
)
def test_what_a_card_does_not_serve(
    bundle: Bundle, gpu_package: None, profile: str, changes: dict[str, Any], card: Card | None, says: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """By name it is refused; chosen by itself it leaves the work to the CPU, and says why."""
    options = replace(ON_CUDA, **changes)
    assert re.search(says, refusal(bundle, profile, options, card))
    monkeypatch.setattr(choice, "first_card", lambda: card)
    with pytest.raises(UsageError, match=f"--device cuda: .*{says}"):
        device_for(bundle, profile, options)
    with caplog.at_level(logging.WARNING):
        assert device_for(bundle, profile, replace(options, device="auto")) is None
    assert re.search(f"on the CPU: .*{says}", caplog.text)


def test_the_package_that_is_missing_is_named(bundle: Bundle) -> None:
    """This environment's onnxruntime is the CPU's."""
    with pytest.raises(UsageError, match=r"onnxruntime-gpu>=1\.32"):
        Engine.open(bundle, device="cuda", replay_golden=False)
    with closing(Engine.open(bundle, device="auto", replay_golden=False)) as engine:
        assert engine.device is None


def test_a_provider_that_does_not_load_is_an_error_and_no_silent_cpu(bundle: Bundle) -> None:
    """onnxruntime warns and goes on with the next provider."""
    session = onnxruntime.InferenceSession(bundle.graph_path("fp32"), providers=["CPUExecutionProvider"])
    with pytest.raises(PtuneError, match="cannot load its CUDAExecutionProvider"):
        Device("cuda", "CUDAExecutionProvider").check(session)


def test_other_devices_are_refused_in_words() -> None:
    for name in ("rocm", "tensorrt", "coreml", "DirectML", "tpu"):
        with pytest.raises(UsageError, match=f"device must be cpu, cuda or auto .is {name}.: "):
            EngineOptions(device=name).check()


def test_onnxruntime_says_so_of_the_attention_that_graphs_need() -> None:
    """The table of refusals rests on the operator's own description, and on the providers that onnxruntime knows."""
    [attention] = [
        schema for schema in operators.get_all_operator_schema() if schema.name == "GroupQueryAttention"
    ]
    [told] = [one.description for one in attention.inputs if one.name == "query_seqlens"]
    assert "honored by the CPU and CUDA execution providers; other EPs must reject" in told
    known = {name.removesuffix("ExecutionProvider").lower() for name in onnxruntime.get_all_providers()}
    assert "rocm" not in known
    assert {"migraphx", "dml", "coreml", "openvino", "qnn", "webgpu", "tensorrt"} <= {*NO_DEVICES} & known
