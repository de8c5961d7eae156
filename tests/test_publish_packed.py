"""Ready-made checkpoints, the whole way: trained on as they are stored, read back, evaluated, exported, proved, served."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from support import packed_checkpoints as made
from support import tiny_models
from support.chat_run import trained

from ptune.engine.decoder.engine import Engine
from ptune.evaluation.evaluate import evaluate
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.publish import export_backbone, export_run, gguf
from ptune.verify import profile

RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other
WAYS = ["gptq", "awq", "fp8", "compressed int4"]
FOUR_BITS = {"gptq v2, act order", "gptq", "awq", "compressed int4"}
IDS = [5, 6, 7, 8]


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits for random weights."""
    for name in ("PROFILE_TOP1", "INT4_KEPT_TOP1", "INT4_TOP1"):
        monkeypatch.setattr(profile, name, RANDOM_TOP1)


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize("name", ["gptq", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
def test_it_is_trained_on_and_served_as_it_is_stored(tmp_path: Path, name: str) -> None:
    _, values = made.build(tmp_path / "model", made.FORMATS[name])
    method = made.FORMATS[name].settings()["quant_method"]
    run = trained(tmp_path)
    record = run.record()
    assert record.base.quantize == method
    assert f"quantisation: {method}" in (run.folder / "README.md").read_text()
    assert Run(run.folder).record().base.hash == record.base.hash

    small = "int4" if name in FOUR_BITS else "int8"
    proof = export_run(run, tmp_path / "bundle", name="tuned", threads=1, profiles=("fp32", small))
    assert proof.passed
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.base.quantize == method
    assert bundle.manifest.graphs[small].kept == (1 if small == "int4" else None)

    plain = tiny_models.model("llama")
    plain.load_state_dict(values, strict=False)
    adapted = PeftModel.from_pretrained(plain, str(run.adapter_path))
    with torch.no_grad():
        expected = adapted(torch.tensor([IDS])).logits[0].numpy()
    with closing(Engine.open(bundle, profile="fp32", threads=1)) as engine:
        said = engine.logits([IDS], ["tuned"])[0]
    np.testing.assert_allclose(said, expected, atol=2e-4)


@pytest.mark.parametrize("name", ["gptq v2, act order", *WAYS])
def test_the_report_says_what_it_is_held_in(tmp_path: Path, name: str) -> None:
    made.build(tmp_path / "model", made.FORMATS[name])
    run = trained(tmp_path)
    evaluate(run)
    method = made.FORMATS[name].settings()["quant_method"]
    assert f"{method}, other weights float32" in (run.folder / "report.html").read_text()


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_int4_keeps_groups_of_few_bits_as_they_are(tmp_path: Path, bits: int) -> None:
    """Without an adapter; in groups of 64 that are two of the profile's blocks, whose zero points differ."""
    from ptune.config.recipe import Backbone

    folder, _ = made.build(tmp_path / "model", made.Gptq(bits=bits, group=64))
    spec = Backbone(model=str(folder))
    proof = export_backbone(spec, tmp_path / "bundle", threads=1, profiles=("fp32", "int4"))
    assert proof.passed
    assert Bundle.open(tmp_path / "bundle").manifest.graphs["int4"].kept == 1


@pytest.mark.slow
def test_it_is_merged_and_written_as_gguf(tmp_path: Path) -> None:
    made.build(tmp_path / "model", made.FORMATS["gptq v2, act order"])
    run = trained(tmp_path)
    assert export_run(run, tmp_path / "bundle", name="merged", threads=1, merge=True).passed
    assert gguf.export_run(run, tmp_path / "gguf", name="tuned", threads=1).passed
