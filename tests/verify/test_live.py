"""What trained in another kernel than the one that serves is measured against it; what trained in float32 is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import peft_folder
from support.tiny_models import build

from ptune.config.recipe import Backbone
from ptune.publish.decoder_run import reference
from ptune.verify.decoder import live
from ptune.verify.decoder import probes as probing
from ptune.verify.decoder.live import live_kernel_hops


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    peft_folder(build(folder / "model", "llama"), folder / "adapter", spread=0.2)
    return folder


def hops(folder: Path, **backbone: str):  # type: ignore[no-untyped-def]
    spec = Backbone.model_validate({"model": str(folder / "model"), **backbone})
    loaded = reference(spec)
    return live_kernel_hops(spec, loaded.model, folder / "adapter", probing.of_examples([], loaded.codec))


def test_float32_is_what_serves(folder: Path) -> None:
    assert hops(folder, dtype="float32") == []


def test_bfloat16_is_measured_on_the_same_rounded_weights(folder: Path) -> None:
    (hop,) = hops(folder, dtype="bfloat16")
    assert hop.name == "bfloat16 kernel → float32 on the same base"
    assert hop.passed
    assert hop.limit == "mean KL ≤ 0.003"
    assert hop.max_abs_logprob is not None
    assert hop.max_abs_logprob > 0  # another kernel did run


def test_both_kinds_of_rounding_may_add_up(folder: Path) -> None:
    (hop,) = hops(folder, quantize="nf4", dtype="bfloat16")
    assert hop.name == "nf4 kernel → float32 on the dequantised base"
    assert hop.limit == "mean KL ≤ 0.005"
    assert "nf4 and bfloat16" in hop.note


def test_a_kernel_that_rounds_more_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIVE_KERNEL_KL", {"bfloat16": 0.0})
    (hop,) = hops(folder, dtype="bfloat16")
    assert not hop.passed
