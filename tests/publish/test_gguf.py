"""GGUF exports: what llama.cpp answers is what torch answers, family by family; and what drifts is refused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
from support import chat_run, gguf_file
from support.bundles import peft_folder
from support.other_engines import NEEDS_LLAMA_CPP
from support.tiny_models import LLAMA3, build, in_four_bits, model

from ptune.cli import main
from ptune.codecs.served_template import served_template
from ptune.config.recipe import Backbone
from ptune.errors import ParityError, UsageError
from ptune.formats.gguf_export import GgufType, read_export
from ptune.formats.parity_json import read_parity
from ptune.formats.run import Run
from ptune.publish import gguf as publishing
from ptune.publish.decoder_run import reference
from ptune.publish.other_engine import Exported
from ptune.verify.decoder import probes as probing
from ptune.verify.proof import Proof

pytestmark = NEEDS_LLAMA_CPP
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # family, its config, its adapter
    "gemma": ("gemma", {}, {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}, {}),
    "gemma3": ("gemma3", {"query_pre_attn_scalar": 16, "num_hidden_layers": 7}, {}),
    "gpt2": ("gpt2", {}, {}),
    "llama": ("llama", {}, {}),
    "llama_tied": ("llama_tied", {}, {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}, {"use_rslora": True}),
    "llama_linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"k_proj": 20}},
    ),
    "llama_biased": ("llama", {"attention_bias": True}, {"target_modules": ["q_proj", "lm_head"]}),
    "mistral": ("mistral", {"sliding_window": 512}, {}),
    "phi3": ("phi3", {}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen3": ("qwen3", {"head_dim": 32}, {}),
}


def exported(
    folder: Path,
    family: str = "llama",
    kind: GgufType = "F32",
    *,
    options: dict[str, Any] | None = None,
    template: bool = False,
    four_bits: bool = False,
    **config: Any,
) -> Proof:
    """Exports a random model and a random adapter of it to FOLDER/out. template: also as llama-server renders it."""
    base = build(folder / "model", family, seed=3, **config)
    if four_bits:
        in_four_bits(base)
    adapter = peft_folder(base, folder / "adapter", spread=0.15, **(options or {}))
    loaded = reference(Backbone(model=str(base)))
    if not template:
        loaded.codec.template = None
    probes = probing.of_examples([], loaded.codec)
    return publishing.export_model(Exported(loaded, probes, "tuned", adapter), folder / "out", kind, 1)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_family(name: str, tmp_path: Path) -> None:
    family, config, options = MODELS[name]
    proof = exported(tmp_path, family, options=options, **config)
    found = {hop.name: hop for hop in proof.hops}
    for hop in (found["torch → llama.cpp"], found["torch + peft → llama.cpp + adapter"]):
        assert hop.mean_kl is not None
        assert hop.mean_kl < 2e-5
    alive = found["adapter − base in llama.cpp"].liveness
    assert alive is not None
    assert alive < 0.02
    assert found["float32 → F32, in torch"].max_abs_logprob == 0


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_types_of_weights(kind: GgufType, tmp_path: Path) -> None:
    exported(tmp_path, "llama", kind, four_bits=kind == "Q4_1", hidden_size=128, initializer_range=0.1)
    tensors = {one.name: one for one in gguf.GGUFReader(tmp_path / "out" / "base.gguf").tensors}
    assert tensors["blk.0.ffn_down.weight"].tensor_type.name == kind
    assert tensors["token_embd.weight"].tensor_type.name == ("Q8_0" if kind == "Q4_1" else kind)
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


def test_k_quants_are_llama_cpps_own(tmp_path: Path) -> None:
    """256 numbers a block, and a row that is no whole number of blocks in Q4_1: the same weights on both sides."""
    from ptune.export.gguf.pre_tokenizer import pre_tokenizer
    from ptune.export.gguf.vocabulary import vocabulary_of
    from ptune.export.gguf.write import Facts, write_model
    from ptune.llama_cpp.library import quantized, required_library
    from ptune.parity import compare
    from ptune.verify.decoder.torch_side import logprobs
    from ptune.verify.llama_cpp import llama_log_probs

    base = build(tmp_path / "model", "llama", hidden_size=256, intermediate_size=288, initializer_range=0.06)
    loaded, library = reference(Backbone(model=str(base))), required_library()
    vocabulary = vocabulary_of(loaded.codec, 600)
    pre, out = pre_tokenizer(loaded.codec, vocabulary, library), tmp_path / "model.gguf"
    before = loaded.model.model.layers[0].mlp.gate_proj.weight.clone()
    write_model(
        out, loaded.model, vocabulary, pre, Facts("x", "mit", 512), "Q4_K", partial(quantized, library)
    )
    kinds = {one.name: one.tensor_type.name for one in gguf.GGUFReader(out).tensors}
    assert kinds["blk.0.ffn_gate.weight"] == "Q4_K"
    assert kinds["blk.0.ffn_down.weight"] == "Q4_1"
    after = loaded.model.model.layers[0].mlp.gate_proj.weight
    assert 0.03 < float((after - before).norm() / before.norm()) < 0.12  # 4 bits lose so much
    probes = probing.of_examples([], loaded.codec)[:6]
    here = llama_log_probs(library, out, None, probes, 1)
    assert compare("", logprobs(loaded.model, probes), here, mean_kl=0.01).passed


def test_rounding_that_loses_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ParityError,
        match=r"float32 → Q4_0, in torch: .* but the limit is mean KL ≤ 0.05 .* take --gguf-type Q8_0 or F16",
    ):
        exported(tmp_path, "llama", "Q4_0")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0], ids=["dead", "halved", "doubled"])
def test_an_adapter_of_another_scale_is_refused(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest mistake of converters: alpha is left out or applied twice."""
    from ptune.export.gguf.adapter import write_adapter as right

    def wrong(path: Path, layers: dict[str, Any], *rest: Any) -> None:
        right(path, {name: ((a, b * factor), scale) for name, ((a, b), scale) in layers.items()}, *rest)

    monkeypatch.setattr(publishing, "write_adapter", wrong)
    with pytest.raises(ParityError, match=r"adapter − base in llama.cpp: relative L2"):
        exported(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_bos_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.export.gguf.vocabulary import vocabulary_of as right

    monkeypatch.setattr(publishing, "vocabulary_of", lambda *said: replace(right(*said), add_bos=True))
    with pytest.raises(ParityError, match=r"tokenizer → llama.cpp's: .*other tokens of"):
        exported(tmp_path)


def test_an_answer_that_would_not_end_is_refused(tmp_path: Path) -> None:
    """A third end of answers, which GGUF has no key for and llama.cpp does not know by its text."""
    loaded = reference(Backbone(model=str(build(tmp_path / "model"))))
    loaded.codec.eos_ids = frozenset({2, 4, 300})
    model = Exported(loaded, probing.of_examples([], loaded.codec)[:2], "tuned")
    with pytest.raises(ParityError, match=r"tokenizer → llama.cpp's: .*answers do not end at"):
        publishing.export_model(model, tmp_path / "out", "F16", 1)


def test_another_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.export.gguf import vocabulary

    twice = "{{ bos_token }}"
    monkeypatch.setattr(vocabulary, "served_template", lambda codec: twice + str(served_template(codec)))
    with pytest.raises(
        ParityError, match=r"chat template → llama-server's: .*other tokens of a conversation"
    ):
        exported(tmp_path, template=True)


def test_some_layers_of_a_gguf_file_are_written_anew(tmp_path: Path) -> None:
    """The file that they came from has all of them."""
    gguf_file.write(tmp_path / "all.gguf", model=model("llama", num_hidden_layers=3), pre="gpt-2")
    kept = Backbone(model=str(tmp_path / "all.gguf"), keep_layers=(0, 2))
    assert publishing.export_backbone(kept, tmp_path / "out", threads=1).passed
    written = gguf.GGUFReader(tmp_path / "out" / "out.gguf")
    assert written.get_field("llama.block_count").contents() == 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on a GGUF file, whose name for splitting text is not the tokenizer's."""
    folder = tmp_path_factory.mktemp("gguf")
    gguf_file.write(folder / "base.gguf")
    return chat_run.trained(folder, model="base.gguf")


def test_a_run_on_a_gguf_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ptune.llama_cpp.server import serving

    out = tmp_path / "out"
    command = ["export", str(run.folder), "--gguf", "--name", "tiny", "--out", str(out), "--threads", "1"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["next"] == f"ollama create tiny -f {out}/Modelfile"
    assert [hop["name"] for hop in told["result"]["parity"]["tiny"]] == [
        "trained → reloaded",
        "torch + peft → llama.cpp + adapter",
        "adapter − base in llama.cpp",
        "chat template → llama-server's",
    ]
    record, parity = read_export(out), read_parity(out)
    assert set(record.files) == {"base.gguf", "adapter.gguf", "Modelfile", "parity.json"}
    assert record.type == "F32"
    assert {hop.name for hop in parity.hops} == {hop.name for hop in record.hops}
    assert all(hop.passed for hop in record.hops)
    # the base's weights are byte for byte those that it was trained on
    before, after = (
        gguf.GGUFReader(path).tensors for path in (run.folder.parent / "base.gguf", out / "base.gguf")
    )
    assert [(one.name, one.data.tobytes()) for one in before] == [
        (one.name, one.data.tobytes()) for one in after
    ]

    with serving(out / "base.gguf", out / "adapter.gguf", context=512) as url:
        code = main(["verify", str(out), "--url", f"{url}/v1"])
    assert "verdict: right\n" in capsys.readouterr().out
    assert code == 0

    assert main(command) == 2
    assert f"{out} exists already" in capsys.readouterr().err


def test_a_run_merged(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one"
    command = ["export", str(run.folder), "--gguf", "--merge", "--out", str(out), "--threads", "1"]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == {"one.gguf", "Modelfile", "gguf.json"}
    record = read_export(out)
    assert record.type == "F16"
    assert record.hops[0].name == "live adapter → merged"
    assert "ADAPTER" not in (out / "Modelfile").read_text()
    assert "next: ollama create run -f" in capsys.readouterr().out


def test_without_an_adapter(tmp_path: Path) -> None:
    base = build(tmp_path / "model", "qwen2")
    assert (
        main(
            [
                "export",
                str(base),
                "--gguf",
                "--gguf-type",
                "F16",
                "--out",
                str(tmp_path / "out"),
                "--threads",
                "1",
            ]
        )
        == 0
    )
    assert read_export(tmp_path / "out").files.keys() == {"out.gguf", "Modelfile"}


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("olmo2", {}, "--gguf: models of type olmo2 are not written as GGUF, only gemma, gemma2"),
        ("gemma2", {}, "llama.cpp computes this gemma2 otherwise: query_pre_attn_scalar is 256, not 16"),
        ("llama", {"hidden_act": "gelu"}, "llama.cpp computes this llama otherwise: its activation is gelu"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "its rotary frequencies are of type yarn",
        ),
    ],
)
def test_refused_before_weights_are_read(
    family: str, config: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = build(tmp_path / "model", family, **config)
    (base / "model.safetensors").write_bytes(b"no weights")
    assert main(["export", str(base), "--gguf", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_window_is_the_longest_context(tmp_path: Path) -> None:
    """Mistral 0.1 slides over 4,096 tokens, which llama.cpp does not: up to there both see everything."""
    exported(tmp_path, "mistral", sliding_window=48)
    reader = gguf.GGUFReader(tmp_path / "out" / "base.gguf")
    field = reader.get_field("llama.context_length")
    assert field is not None
    assert field.contents() == 48
    assert "PARAMETER num_ctx 48" in (tmp_path / "out" / "Modelfile").read_text()


def test_spaces_behind_special_tokens_are_cut_off_as_in_phi3(tmp_path: Path) -> None:
    """As Phi-3's tokenizer drops the line feed behind <|end|>."""
    base = build(tmp_path / "model", "phi3", vocab_size=602)
    file = base / "tokenizer.json"
    described = json.loads(file.read_text())
    for one in described["added_tokens"]:
        one["rstrip"] = one["content"].startswith("<|im_") or one["content"] == "</s>"
    plain = {**described["added_tokens"][0], "rstrip": False}
    for at, text in enumerate(("<unk>", "<|endoftext|>")):
        described["added_tokens"].append({**plain, "id": 600 + at, "content": text})
    file.write_text(json.dumps(described))
    loaded = reference(Backbone(model=str(base)))
    ids = loaded.codec.encode_prompt([{"role": "user", "content": "Hi"}])
    assert ids[ids.index(4) + 1] == 3  # <|im_start|> comes right behind <|im_end|>
    model = Exported(loaded, probing.of_examples([], loaded.codec)[:2], "tuned")
    publishing.export_model(model, tmp_path / "out", "F16", 1)


def test_what_an_adapter_cannot_hold(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file, save_file

    file = run.adapter_path / "adapter_model.safetensors"
    right = file.read_bytes()
    try:
        bias = {
            "base_model.model.model.layers.0.self_attn.q_proj.bias": load_file(file).popitem()[1][:, 0].copy()
        }
        save_file({**load_file(file), **bias}, file)
        with pytest.raises(
            UsageError, match=r"brings model\.layers\.0\.self_attn\.q_proj\.bias, .* add --merge"
        ):
            publishing.export_run(run, tmp_path / "out", name="x", threads=1)
    finally:
        file.write_bytes(right)


def test_without_llama_cpp(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(run.folder), "--gguf"]) == 2
    assert "not installed; run: pip install 'ptune[gguf]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gguf", "--profiles", "int8"], "leave them out beside --gguf"),
        (["--gguf-type", "Q8_0"], "--gguf-type Q8_0 is about GGUF files: add --gguf"),
    ],
)
def test_options_that_do_not_go_together(
    run: Run, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.folder), *options]) == 2
    assert said in capsys.readouterr().err
