"""Ready-made checkpoints, the whole way: trained on as they are stored, read back, evaluated, exported, proved, served."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, quants
from peft import PeftModel
from support import gguf_file, tiny_models
from support import packed_checkpoints as made
from support.chat_run import trained

from ptune.engine.decoder.engine import Engine
from ptune.evaluation.evaluate import evaluate
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.publish import export_backbone, export_run, gguf
from ptune.verify.decoder import profile
from ptune.verify.server import serving

RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other
RANDOM_KL = (
    0.03  # of int8: in a random mixture a rounded activation sends a token to another expert now and then
)
WAYS = ["gptq", "awq", "fp8", "compressed int4"]
FOUR_BITS = {"gptq v2, act order", "gptq", "awq", "compressed int4"}
IDS = [5, 6, 7, 8]


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits for random weights."""
    for name in ("PROFILE_TOP1", "INT4_KEPT_TOP1", "INT4_TOP1"):
        monkeypatch.setattr(profile, name, RANDOM_TOP1)
    monkeypatch.setattr(profile, "PROFILE_KL", RANDOM_KL)


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


def _gguf(folder: Path) -> Path:
    """A tiny Llama whose linear layers are in Q4_0."""
    model = tiny_models.model("llama")
    kind = GGMLQuantizationType.Q4_0
    ups = {
        f"blk.{number}.ffn_up.weight": layer.mlp.up_proj for number, layer in enumerate(model.model.layers)
    }
    stored = {name: (quants.quantize(up.weight.detach().numpy(), kind), kind) for name, up in ups.items()}
    gguf_file.write(folder / "model.gguf", model=model, stored=stored)
    return folder / "model.gguf"


STORED: dict[str, Callable[[Path], Path]] = {
    "mxfp4": lambda folder: made.gpt_oss(folder / "model"),
    "int8": lambda folder: made.in_eight_bits(folder / "model"),
    "none": _gguf,  # unpacked when it is read
}


def _by_transformers(file: Path, stored: str) -> torch.nn.Module:
    """The base as transformers unpacks it, without ptune."""
    read = partial(transformers.AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    if stored == "mxfp4":
        return read(file, quantization_config=transformers.Mxfp4Config(dequantize=True))
    if stored == "int8":
        return read(file, device_map={"": "cpu"}).dequantize(dtype=torch.float32)
    return read(file.parent, gguf_file=file.name)


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize("stored", STORED)
def test_from_training_to_an_answer_over_http(tmp_path: Path, stored: str) -> None:
    """gpt-oss in MXFP4, bitsandbytes' eight bits and GGUF: what is answered is what transformers and peft say."""
    file = STORED[stored](tmp_path)
    run = trained(tmp_path, file.name)
    assert run.record().base.quantize == stored
    proof = export_run(run, tmp_path / "bundle", name="tuned", threads=1, profiles=("fp32", "int8"))
    assert proof.passed
    assert {*Bundle.open(tmp_path / "bundle").manifest.graphs} == {"fp32", "int8"}
    base = _by_transformers(file, stored).eval()
    plain = _greedy(base)
    expected = _greedy(PeftModel.from_pretrained(base, str(run.adapter_path)).eval())
    body = {"prompt": IDS, "max_tokens": 8, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    with serving(tmp_path / "bundle", 1) as url:
        for name, tokens in (("base", plain), ("tuned", expected)):
            answer = httpx.post(f"{url}/v1/completions", json={"model": name, **body}, timeout=60).json()
            assert answer["choices"][0]["token_ids"] == tokens


def _greedy(model: torch.nn.Module) -> list[int]:
    ids = [*IDS]
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(IDS) :]
