"""Exports for onnxruntime-genai: what it answers is what torch answers, family by family; and what drifts is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from peft import PeftModel
from support import chat_run, tiny_vision
from support.bundles import peft_folder
from support.other_engines import NEEDS_GENAI
from support.tiny_models import LLAMA3, build
from transformers import AutoModelForCausalLM

from ptune.cli import main
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError, ParityError, UsageError
from ptune.export.genai.build import build as build_genai
from ptune.formats.genai_export import read_export
from ptune.formats.onnx_adapter import Pair, read_onnx_adapter, write_onnx_adapter
from ptune.formats.run import Run
from ptune.publish import genai as publishing
from ptune.publish.decoder_run import reference
from ptune.publish.other_engine import Exported
from ptune.verify.decoder import probes as probing
from ptune.verify.genai import Genai
from ptune.verify.proof import Proof

pytestmark = NEEDS_GENAI
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # family, its config, its adapter
    "gemma": ("gemma", {}, {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}, {}),
    "granite": ("granite", {}, {}),
    "llama": (
        "llama",
        {},
        {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"k_proj": 20}},
    ),
    "llama3": ("llama", {"rope_parameters": LLAMA3}, {"use_rslora": True}),
    "llama_tied": ("llama_tied", {}, {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}),
    "mistral": ("mistral", {"sliding_window": 512}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen3": ("qwen3", {"head_dim": 32}, {}),
    "smollm3": ("smollm3", {}, {}),
}


def exported(
    folder: Path, family: str = "llama", config: Any = (), options: Any = (), ends: Set[int] = frozenset()
) -> Proof:
    """Exports a random model and a random adapter of it to FOLDER/out. ends: further ones of answers."""
    base = build(folder / "model", family, seed=3, **dict(config))
    adapter = peft_folder(base, folder / "adapter", spread=0.15, **dict(options))
    loaded = reference(Backbone(model=str(base)))
    loaded.codec.eos_ids |= ends
    probes = probing.of_examples([], loaded.codec)
    return publishing.export_model(Exported(loaded, probes, "tuned", adapter), folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"llama"}))
def test_a_family(name: str, tmp_path: Path) -> None:
    check_hops(exported(tmp_path, *MODELS[name]))


def check_hops(proof: Proof) -> None:
    found = {hop.name: hop for hop in proof.hops}
    for name in ("torch → onnxruntime-genai", "torch + peft → onnxruntime-genai + adapter"):
        most = found[name].max_abs_logprob
        assert most is not None
        assert most < 2e-4
    alive = found["adapter − base in onnxruntime-genai"].liveness
    assert alive is not None
    assert alive < 1e-3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Proof]:
    """FOLDER/out; and in FOLDER/built what the builder gave, before adapters had places."""
    folder = tmp_path_factory.mktemp("genai")

    def kept(model: Any, codec: Any, out: Path, *, places: bool) -> None:
        build_genai(model, codec, out, places=places)
        shutil.copytree(out, folder / "built")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "build", kept)
        proof = exported(folder, *MODELS["llama"])
    return folder, proof


@pytest.fixture
def built(llama: tuple[Path, Proof], monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes seconds to start. Here it has built the same weights already."""

    def copied(model: Any, codec: Any, out: Path, *, places: bool) -> None:
        assert places
        shutil.copytree(llama[0] / "built", out, dirs_exist_ok=True)

    monkeypatch.setattr(publishing, "build", copied)


def test_equal_answers(llama: tuple[Path, Proof]) -> None:
    """Greedy tokens of plain transformers and peft, of the base and of the adapter, whose ranks and scales differ by layer."""
    folder, proof = llama
    check_hops(proof)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    tuned = PeftModel.from_pretrained(model, str(folder / "adapter")).eval()
    ids = [*range(20, 44)]
    asked: dict[str, Any] = {"input_ids": torch.tensor([ids]), "max_new_tokens": 20, "do_sample": False}
    ends = Genai(folder / "out").ends
    with tuned.disable_adapter():
        plain = tuned.generate(**asked, eos_token_id=ends)[0, len(ids) :].tolist()
    with_adapter = tuned.generate(**asked, eos_token_id=ends)[0, len(ids) :].tolist()
    assert plain != with_adapter
    assert Genai(folder / "out").greedy(ids, 20) == plain
    assert Genai(folder / "out", folder / "out" / "tuned.onnx_adapter").greedy(ids, 20) == with_adapter


@pytest.mark.slow
def test_factors_are_those_of_the_builder(llama: tuple[Path, Proof], tmp_path: Path) -> None:
    """What onnxruntime-genai's builder makes of the adapter by itself, as constants of a graph, to the bit."""
    import subprocess
    import sys

    folder, _ = llama
    command = [
        sys.executable,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        folder / "model",
        "-o",
        tmp_path / "o",
    ]
    command += ["-p", "fp32", "-e", "cpu", "-c", tmp_path / "cache"]
    command += ["--extra_options", f"adapter_path={folder / 'adapter'}"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    graph = onnx.load(tmp_path / "o" / "model.onnx").graph
    theirs = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if "lora_" in one.name}
    ours = read_onnx_adapter(folder / "out" / "tuned.onnx_adapter")
    assert len(theirs) == 2 * len(ours) > 0
    for layer, pair in ours.items():
        for side, factor in zip("AB", pair, strict=True):
            name = f"{layer.replace('self_attn', 'attn')}.lora_{side}.MatMul.weight"
            assert theirs[name].tobytes() == factor.tobytes(), name


def test_an_adapter_of_other_layers_and_ranks_fits_the_same_model(
    llama: tuple[Path, Proof], tmp_path: Path
) -> None:
    from ptune.parity import compare
    from ptune.verify.decoder.torch_side import logprobs
    from ptune.verify.reference import lora_layers, peft_factors

    folder, _ = llama
    other = peft_folder(
        folder / "model", tmp_path / "other", seed=5, spread=0.15, r=9, target_modules=["v_proj", "up_proj"]
    )
    loaded = reference(Backbone(model=str(folder / "model")))
    probes = probing.of_examples([], loaded.codec)[:4]
    wrapped = PeftModel.from_pretrained(loaded.model, str(other)).eval()
    file = tmp_path / "other.onnx_adapter"
    write_onnx_adapter(file, peft_factors(lora_layers(wrapped), "default"))
    there = map(Genai(folder / "out", file).log_probs, probes)
    assert compare("", logprobs(wrapped, probes), there, max_abs_logprob=2e-4).passed


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["halved", "doubled"])
def test_an_adapter_of_another_scale_is_refused(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: None
) -> None:
    """The commonest mistake of converters: alpha is left out or applied twice."""

    def wrong(path: Path, pairs: dict[str, Pair]) -> None:
        write_onnx_adapter(path, {layer: (a, b * np.float32(factor)) for layer, (a, b) in pairs.items()})

    monkeypatch.setattr(publishing, "write_onnx_adapter", wrong)
    with pytest.raises(
        ParityError, match=r"onnxruntime-genai \+ adapter: .* but the limit is max \|Δ log p\| ≤ 0.001"
    ):
        exported(tmp_path)
    assert not (tmp_path / "out").exists()


def test_another_template_is_refused(llama: tuple[Path, Proof], built: None, tmp_path: Path) -> None:
    file = llama[0] / "built" / "chat_template.jinja"
    right = file.read_text()
    try:
        file.write_text("Well. " + right)
        with pytest.raises(
            ParityError, match=r"chat template → onnxruntime-genai's: .*another text of a conversation"
        ):
            exported(tmp_path)
    finally:
        file.write_text(right)


def test_answers_that_would_not_end_are_refused(built: None, tmp_path: Path) -> None:
    """The settings hold the ends of the codec that was built; this one has another."""
    with pytest.raises(ParityError, match=r"tokenizer → onnxruntime-genai's: .*answers do not end at"):
        exported(tmp_path, ends={300})


def test_answers_end_where_the_codec_ends_them(llama: tuple[Path, Proof]) -> None:
    codec = reference(Backbone(model=str(llama[0] / "model"))).codec
    assert len(codec.eos_ids) > 0
    assert Genai(llama[0] / "out").ends == sorted(codec.eos_ids)


@pytest.mark.slow
def test_what_the_builder_cannot_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"cannot build a olmo2, it says: .*The olmo2 model is not currently supported"
    ):
        exported(tmp_path, "olmo2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "model"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    build(folder / "model", seed=3)
    return chat_run.trained(folder)


def test_a_run(run: Run, built: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["export", str(run.folder), "--genai", "--name", "tiny", "--out", str(out), "--threads", "1"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert told["adapter"] == str(out / "tiny.onnx_adapter")
    assert [hop["name"] for hop in told["parity"]["tiny"]] == [
        "trained → reloaded",
        "torch + peft → onnxruntime-genai + adapter",
        "adapter − base in onnxruntime-genai",
    ]
    assert [hop["name"] for hop in told["parity"]["base"]] == [
        "torch → onnxruntime-genai",
        "tokenizer → onnxruntime-genai's",
        "chat template → onnxruntime-genai's",
    ]
    record = read_export(out)
    assert {
        "model.onnx",
        "model.onnx.data",
        "genai_config.json",
        "tokenizer.json",
        "tiny.onnx_adapter",
    } <= set(record.files)
    assert all(hop.passed for hop in record.hops)
    assert main(command) == 2
    assert f"{out} exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_merged(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run.folder), "--genai", "--merge", "--out", str(out), "--threads", "1"]) == 0
    record = read_export(out)
    assert record.hops[0].name == "live adapter → merged"
    assert not [name for name in record.files if name.endswith(".onnx_adapter")]
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    assert not [one.name for one in graph.input if "lora" in one.name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gguf"], "--gguf and --genai write for different engines"),
        (["--profiles", "fp32,int8"], "about bundles: leave them out beside --genai"),
        (["--gguf-type", "F16"], "--gguf-type F16 is about GGUF files: add --gguf"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "nothing", "--genai", *options, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_what_an_adapter_cannot_hold(run: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = run.adapter_path / "adapter_model.safetensors"
    right = file.read_bytes()
    layer = "model.layers.0.self_attn.q_proj"
    try:
        bias = {f"base_model.model.{layer}.bias": load_file(file).popitem()[1][:, 0].copy()}
        save_file({**load_file(file), **bias}, file)
        with pytest.raises(UsageError, match=rf"brings {layer}\.bias, which .* cannot hold: add --merge"):
            publishing.export_run(run, tmp_path / "out", name="x")
    finally:
        file.write_bytes(right)


@pytest.mark.slow
def test_a_base_in_nf4_is_the_one_that_was_trained_on(tmp_path: Path) -> None:
    base = build(tmp_path / "model", seed=3, hidden_size=128)
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.15)
    loaded = reference(Backbone(model=str(base), quantize="nf4"))
    probes = probing.of_examples([], loaded.codec)
    check_hops(publishing.export_model(Exported(loaded, probes, "tuned", adapter), tmp_path / "out"))


def test_a_model_that_sees_images_is_refused(tmp_path: Path) -> None:
    base = tiny_vision.build(tmp_path / "model")
    (base / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"sees images, and only models of text"):
        publishing.export_backbone(Backbone(model=str(base)), tmp_path / "out")


def test_a_head_is_refused(tmp_path: Path, built: None) -> None:
    with pytest.raises(UsageError, match=r"changes lm_head, for which .* has no place: add --merge"):
        exported(tmp_path, options={"target_modules": ["q_proj", "lm_head"]})


def test_without_onnxruntime_genai(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: pip install '\.\[genai\]'"):
        publishing.export_run(run, tmp_path / "out", name="x")
