"""What a quantised model takes while it is read: itself, and the work on one of its weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import gguf_file, tiny_models
from transformers import PreTrainedModel

SIZE = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 8}

# The most of its own memory (RssAnon) that a process gains while it loads a model, after it has loaded another.
PROBE = """
import json, re, sys, threading
from pathlib import Path
from ptune.backbone.load import load
from ptune.config.recipe import Backbone

def own():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

spec = Backbone(model=sys.argv[2], quantize=sys.argv[3], dtype="float32")
load(spec.model_copy(update={"model": sys.argv[1]}))
looks, done = [own()], threading.Event()

def look():
    while not done.wait(0.005):
        looks.append(own())

thread = threading.Thread(target=look)
thread.start()
load(spec)
done.set()
thread.join()
print(json.dumps(max(looks) - looks[0]))
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
    command = [sys.executable, "-c", PROBE, str(small), str(large), kind]
    # What is freed goes back to the system at once, so that what is held is counted and not what malloc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    gained = json.loads(answer.stdout)

    unquantised = 4 * sum(weight.numel() for weight in model.parameters())
    largest = 4 * max(weight.numel() for weight in model.parameters())
    packed = unquantised / 4 * {"nf4": 0.52, "int8": 1.01}[kind]
    # bitsandbytes takes several times the weight while it packs it.
    assert gained < packed + 6 * largest + 8 * 2**20 < unquantised / 2
