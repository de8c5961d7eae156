"""The text model of a folder that holds one that sees images, too."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from support import tiny_models
from support.tiny_models import HYBRIDS

from ptune.backbone.load import load
from ptune.backbone.text_alone import text_alone
from ptune.config.recipe import Backbone

VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip


def test_the_folder_of_a_model_that_sees_gives_its_text_model(tmp_path: Path) -> None:
    config = transformers.Qwen3_5Config(text_config=HYBRIDS["qwen3_5"]().to_dict(), vision_config=VISION)
    torch.manual_seed(0)
    seeing = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    seeing.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    loaded = load(Backbone(model=str(tmp_path)), device="cpu")
    assert isinstance(loaded.model, transformers.Qwen3_5ForCausalLM)
    assert loaded.model.config.model_type == "qwen3_5_text"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, seeing(ids).logits)


def test_other_configs_stay_what_they_are() -> None:
    for config in (HYBRIDS["qwen3_5"](), tiny_models.FAMILIES["llama"](), transformers.Gemma3Config()):
        assert text_alone(config) is config
