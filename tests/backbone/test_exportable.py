"""What cannot be exported is refused by its config, in one sentence; every family that is tested is let through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from support import tiny_models
from support.tiny_models import ALL
from transformers import PretrainedConfig

from ptune.cli import main
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError, RecipeError
from ptune.export.decoder.trace import trace
from ptune.methods.lora import Lora
from ptune.planning.exportable import check_exportable, why_not_exportable

TINY: dict[str, Any] = {
    "vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}

REFUSED: dict[str, tuple[Callable[[], PretrainedConfig], str]] = {
    "minimax": (lambda: transformers.MiniMaxConfig(**TINY), "1 of 2 layers of kind 'linear_attention'"),
    "recurrent_gemma": (
        lambda: transformers.RecurrentGemmaConfig(
            **TINY, lru_width=64, block_types=["recurrent", "attention"], attention_window_size=8
        ),
        "layers of kind 'linear_attention'",
    ),
    "zamba": (lambda: transformers.ZambaConfig(), "scans the heads of each layer"),
    "llama4_text": (lambda: transformers.Llama4TextConfig(), "of kind 'chunked_attention'"),
    "gemma4": (lambda: transformers.Gemma4Config(), "reads images and sound beside text"),
    "gemma3": (
        lambda: transformers.Gemma3Config(text_config=TINY, vision_config=VISION),
        "save its text model (gemma3_text) as a folder of its own",
    ),
    "rwkv": (lambda: transformers.RwkvConfig(), "no attention heads"),
    "bloom": (
        lambda: transformers.BloomConfig(vocab_size=600, hidden_size=64, n_layer=2, n_head=4),
        "attention in its own way",
    ),
    "whisper": (lambda: transformers.WhisperConfig(), "does not go from text to text"),
    "bert": (lambda: transformers.BertConfig(), "an encoder, which writes no text"),
    "resnet": (lambda: transformers.ResNetConfig(), "no causal language model"),
    "dbrx": (lambda: transformers.DbrxConfig(), "computes its experts in its own way"),
}  # fmt: skip


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_sentence(family: str) -> None:
    make, expected = REFUSED[family]
    reason = why_not_exportable(make())
    assert reason is not None
    assert expected in reason
    assert reason.startswith(family)
    assert "\n" not in reason
    assert ";" in reason or "," in reason  # what to do instead


@pytest.mark.parametrize("family", ALL)
def test_every_family_that_is_tested_is_let_through(family: str) -> None:
    assert why_not_exportable(ALL[family]()) is None


def test_a_text_model_that_is_loaded_by_itself_is_let_through() -> None:
    assert why_not_exportable(transformers.Qwen3_5Config()) is None


def test_encoder_decoders_are_left_to_their_own_exporter() -> None:
    for kind in (transformers.T5Config, transformers.BartConfig, transformers.MarianConfig):
        assert why_not_exportable(kind()) is None


PUBLISHED = {
    "mixtral": lambda: transformers.MixtralConfig(),  # 8x7B
    "olmoe": lambda: transformers.OlmoeConfig(intermediate_size=1024),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(num_experts=128),  # 30B-A3B
    "granitemoe": lambda: transformers.GraniteMoeConfig(num_local_experts=32, num_experts_per_tok=8),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_mixtures_are_let_through_at_their_real_size(family: str) -> None:
    assert why_not_exportable(PUBLISHED[family]()) is None


@pytest.fixture
def refused_folder(tmp_path: Path) -> Path:
    """A config and a tokenizer: weights that anybody read would be missed."""
    folder = tmp_path / "bloom"
    REFUSED["bloom"][0]().save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def test_export_refuses_before_it_reads_weights(
    refused_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(refused_folder), "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(
        f"error: {refused_folder} cannot be exported to ONNX: bloom computes"
    )
    assert "loading" not in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["bloom"]


def test_check_names_the_model(refused_folder: Path) -> None:
    with pytest.raises(BackboneError, match="bloom cannot be exported to ONNX: bloom computes"):
        check_exportable(Backbone(model=str(refused_folder)))


@pytest.mark.parametrize("family", ["recurrent_gemma", "bloom"])
def test_what_reaches_the_tracer_nevertheless_is_one_sentence(family: str) -> None:
    with pytest.raises(BackboneError, match="cannot be exported") as refused:
        trace(REFUSED[family][0]())
    assert "\n" not in str(refused.value)


def test_training_warns_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bloom"
    transformers.AutoModelForCausalLM.from_config(REFUSED["bloom"][0]()).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    data = tiny_models.write_jsonl(tmp_path / "train.jsonl", tiny_models.conversations(8))
    words = ["--backbone.model", str(folder), "--data.files", str(data), "--train.max-steps", "1"]
    assert main(["train", "chat_lora", *words, "--out", str(tmp_path / "run")]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "cannot be exported to ONNX: bloom computes attention in its own way" in warnings[0]
    assert "it can be trained" in warnings[0]


def test_a_layer_that_peft_refuses_is_one_sentence() -> None:
    model = tiny_models.model("mamba")
    with pytest.raises(
        RecipeError, match=r"peft cannot adapt MambaForCausalLM.*or use method Full"
    ) as refused:
        Lora(r=2, target_modules=("out_proj",)).apply(model)
    assert "\n" not in str(refused.value)
