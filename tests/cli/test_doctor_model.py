"""ptune doctor --model: what can be done with a model, without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from support import gguf_file, packed_checkpoints, tiny_models
from support.bundles import tiny_bundle
from transformers import AutoModelForCausalLM

from ptune.cli import main
from ptune.codecs.template import ChatTemplate
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import FP32
from ptune.planning.model_check import thinking_of
from ptune.planning.model_memory import sizes_of, without_weights

TEMPLATES = Path(__file__).parents[1] / "codecs"


def asked(capsys: pytest.CaptureFixture[str], model: Path, *words: str) -> dict[str, Any]:
    assert main(["doctor", "--model", str(model), "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_models.build(tmp_path / "llama")
    found = asked(capsys, folder)
    count = sum(parameter.numel() for parameter in tiny_models.model("llama").parameters())
    assert (found["family"], found["kind"]) == ("llama", "decoder")
    assert (found["parameters"], found["file_bytes"], found["dtype"]) == (count, 4 * count, "float32")
    assert (found["context"], found["rope"]) == (512, ["default"])
    assert all(verdict["works"] for verdict in found["train"].values())
    assert {*found["train"]} == {"lora", "qlora nf4", "qlora int8"}
    assert found["export"]["works"]
    assert {*found["profiles"]} == {"fp32", "int8", "int4", "nf4"}
    assert (
        found["cache_bytes_a_token"] == 2 * 2 * 2 * 16 * 4
    )  # layers, keys and values, heads, width, float32
    assert found["chat_template"]
    assert (found["tools"], found["thinking"]) == (None, None)
    assert found["problems"] == []


def test_no_weight_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_models.build(tmp_path / "llama")
    before = asked(capsys, folder)["parameters"]
    (folder / "model.safetensors").unlink()
    found = asked(capsys, folder)
    assert (found["parameters"], found["weights"]) == (before, "unknown")


def test_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = gguf_file.write(tmp_path / "tiny.gguf")
    found = asked(capsys, tmp_path / "tiny.gguf")
    assert (found["family"], found["weights"], found["dtype"]) == ("llama", "gguf", "F32")
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["export"]["works"]
    assert found["chat_template"]


def test_a_family_that_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "minimax"
    transformers.MiniMaxConfig(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    ).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    found = asked(capsys, folder)
    assert found["train"]["lora"]["works"]
    assert "layers of kind 'linear_attention'" in found["export"]["why"]
    assert not found["serve"]["works"]
    assert not any(verdict["works"] for verdict in found["profiles"].values())
    assert found["serve_bytes"] == {}
    assert main(["doctor", "--model", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "export             no: minimax has 2 of 4 layers of kind 'linear_attention'" in out
    assert "serve              no: it cannot be exported" in out


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_h1"])
def test_a_model_whose_layers_keep_states(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, tiny_models.build(tmp_path / family, family))
    assert found["train"]["lora"]["works"]
    assert found["export"]["works"]
    assert found["serve"]["works"]


def test_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, tiny_models.build_encoder(tmp_path / "bert"))
    assert found["kind"] == "encoder"
    assert "classifier" in found["train"]["lora"]["why"]
    assert {*found["profiles"]} == {"fp32", "int8"}


def test_a_model_saved_quantised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_models.build(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    found = asked(capsys, folder)
    assert "was saved in hqq, and ptune reads" in found["train"]["lora"]["why"]
    assert "was saved in hqq" in found["export"]["why"]


@pytest.mark.parametrize("name", ["gptq", "fp8", "compressed int4"])
def test_a_ready_made_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder, _ = packed_checkpoints.build(tmp_path / "llama", packed_checkpoints.FORMATS[name])
    found = asked(capsys, folder)
    stored = packed_checkpoints.FORMATS[name].settings()["quant_method"]
    assert found["train"][f"qlora {stored}"] == {"works": True, "why": "as it is stored"}
    assert f"it is stored in {stored}: name its original weights" in found["train"]["lora"]["why"]
    assert found["train_bytes"] == {stored: found["file_bytes"]}
    assert found["export"]["works"]
    assert not found["problems"]


def test_a_model_that_bitsandbytes_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_models.build(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    found = asked(capsys, folder)
    assert found["train"]["qlora nf4"]["works"]
    assert "original weights" in found["train"]["lora"]["why"]
    assert found["export"]["works"]
    assert found["chat_template"]
    assert not found["problems"]
    config["quantization_config"]["bnb_4bit_quant_type"] = "fp4"
    (folder / "config.json").write_text(json.dumps(config))
    assert "fp4" in asked(capsys, folder)["train"]["lora"]["why"]


def test_a_rope_that_depends_on_the_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 128}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    folder = tiny_models.build(
        tmp_path / "phi3", "phi3", rope_parameters=rope, original_max_position_embeddings=128
    )
    found = asked(capsys, folder)
    assert (found["context"], found["rope"], found["longest"]) == (128, ["longrope"], 512)
    assert main(["doctor", "--model", str(folder)]) == 0
    assert "128 tokens, rope: longrope; up to 512 with --backbone.context" in capsys.readouterr().out


def test_nothing_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "./nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: backbone.model './nowhere': there is no such file")


def test_beside_a_recipes_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_models.build(tmp_path / "llama")
    data = tiny_models.write_jsonl(tmp_path / "train.jsonl", tiny_models.conversations(8))
    words = ["chat_lora", "--model", str(folder), "--data.files", str(data)]
    assert main(["doctor", *words]) == 0
    out = capsys.readouterr().out
    assert out.index("family             llama") < out.index("nothing is wrong with the data")
    assert f"next: ptune train chat_lora --backbone.model {folder}" in out
    assert main(["doctor", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["family"] == "llama"
    assert document["splits"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("templates/qwen3", ("<think>", "</think>", True)),
        ("agents/opens_reasoning", ("<think>", "</think>", False)),
        ("templates/qwen2_5", None),
        ("templates/llama3", None),
    ],
)
def test_how_a_template_marks_thinking(template: str, expected: tuple[str, str, bool] | None) -> None:
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    found = thinking_of(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}))
    assert (found and (found.begin, found.end, found.switch)) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_predicted_bytes_are_those_of_the_files(tmp_path: Path, tied: bool) -> None:
    wide: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": tied}
    _base, loaded, bundle = tiny_bundle(tmp_path, "llama", **wide)
    source = bundle.graph_path(FP32)
    written = {"fp32": source}
    for name, write in (("int8", write_int8), ("int4", write_int4)):
        written[name] = tmp_path / name / "model.onnx"
        written[name].parent.mkdir()
        write(source, written[name])
    predicted = sizes_of(without_weights(loaded.model.config, AutoModelForCausalLM)).served()
    for name, path in written.items():
        on_disk = path.with_name("model.onnx.data").stat().st_size
        assert predicted[name] == pytest.approx(on_disk, rel=0.1), name
