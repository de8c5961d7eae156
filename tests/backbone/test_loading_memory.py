"""What a quantised model takes while it is read: itself, and the work on one of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import gguf_file, own_memory, tiny_models
from transformers import PreTrainedModel

SIZE = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 8}

# After it has loaded another model.
LOAD = """
from ptune.backbone.load import load
from ptune.config.recipe import Backbone

spec = Backbone(model=sys.argv[2], quantize=sys.argv[3], dtype="float32")
load(spec.model_copy(update={"model": sys.argv[1]}))
with measured():
    loaded = load(spec)
"""


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_models.model("llama", **SIZE)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("written", ["safetensors", "gguf"])
def test_memory_never_holds_the_model_unquantised(
    tmp_path: Path, model: PreTrainedModel, written: str, kind: str
) -> None:
    small, large = tmp_path / f"small.{written}", tmp_path / f"large.{written}"
    for place, one in {small: tiny_models.model("llama"), large: model}.items():
        if written == "gguf":
            gguf_file.write(place, model=one)
        else:
            one.save_pretrained(place, max_shard_size="64MB")
            tiny_models.tokenizer().save_pretrained(place)
    gained = own_memory.gained(LOAD, small, large, kind)

    unquantised = 4 * sum(weight.numel() for weight in model.parameters())
    largest = 4 * max(weight.numel() for weight in model.parameters())
    packed = unquantised / 4 * {"nf4": 0.52, "int8": 1.01}[kind]
    # bitsandbytes takes several times the weight while it packs it.
    assert gained < packed + 6 * largest + 8 * 2**20 < unquantised / 2
