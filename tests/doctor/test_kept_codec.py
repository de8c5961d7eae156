"""A chat model's codec is read once: the next look at data imports nothing heavy, and sees what has changed since."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_models import build, conversations, write_jsonl

from ptune.backbone.load import load_codec
from ptune.config.recipe import Backbone
from ptune.doctor.kept_codec import chat_codec
from ptune.formats.whole_write import read_json, write_json

LOOK = """
import sys
from ptune.cli import main
code = main(["doctor", "chat_lora", *sys.argv[1:]])
print({"torch", "transformers", "peft", "onnx", "gradio"} & set(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    return Backbone(model=str(build(tmp_path / "model", "llama")))


def test_a_second_look_imports_nothing_heavy(model: Backbone, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", conversations(24))
    options = ["--backbone.model", model.model, "--data.files", str(data), "--json"]
    first, second = (
        subprocess.run(
            [sys.executable, "-c", LOOK, *options], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "torch" in first.stderr.splitlines()[-1]
    assert second.stderr.splitlines()[-1] == "set()"
    assert json.loads(second.stdout) == json.loads(first.stdout)


def test_the_same_tokens_as_training_has(model: Backbone) -> None:
    text = "Define: Patience, n. A minor form of despair 😀 <|im_end|>"
    expected = load_codec(model)
    for _ in range(2):
        codec = chat_codec(model)
        assert codec.tokenizer.to_str() == expected.tokenizer.to_str()
        assert codec.encode_text(text) == expected.encode_text(text)
        messages = conversations(1)[0]
        assert codec.encode_prompt(messages[:1]) == expected.encode_prompt(messages[:1])
        assert (codec.eos_ids, codec.context) == (expected.eos_ids, expected.context)
        assert codec.special_tokens == expected.special_tokens


def test_a_model_that_has_changed_is_read_again(model: Backbone) -> None:
    before = chat_codec(model)
    path = Path(model.model) / "config.json"
    write_json(path, {**read_json(path), "max_position_embeddings": 77})
    assert chat_codec(model).context == load_codec(model).context == 77 != before.context


def test_new_tokens_are_part_of_it(model: Backbone) -> None:
    chat_codec(model)
    more = model.model_copy(update={"new_tokens": ("<|tool|>",)})
    assert chat_codec(more).tokenizer.token_to_id("<|tool|>") is not None
    assert chat_codec(model).tokenizer.token_to_id("<|tool|>") is None


def test_one_that_is_damaged_is_read_again(model: Backbone, tmp_path: Path) -> None:
    expected = chat_codec(model).tokenizer.to_str()
    (kept,) = (tmp_path / "cache" / "codecs").glob("*/tokenizer.json")
    kept.write_text("{")
    assert chat_codec(model).tokenizer.to_str() == expected


def test_without_a_cache_it_is_read_each_time(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "file" / "cache"))
    assert chat_codec(model).tokenizer.to_str() == load_codec(model).tokenizer.to_str()
