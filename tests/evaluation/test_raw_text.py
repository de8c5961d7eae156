"""A run on raw text in a mixture: trained at the shares asked for, judged by its loss alone, as it asks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import tiny_models

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Data, Recipe
from ptune.data.examples import dataset
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.training.order import Mixture, Order


def test_raw_text_in_a_mixture_is_trained_and_evaluated(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.load(trained.recipe_path)
    assert isinstance(recipe.task, Chat)
    texts = [row[-1]["content"] for row in tiny_models.conversations(30)]
    rows, book = tmp_path / "rows.jsonl", tmp_path / "book.txt"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:20]), encoding="utf-8")
    book.write_text("\n\n".join(texts[20:]), encoding="utf-8")
    data = Data(files=(*recipe.data.files, rows), weights=(1, 3), test=(book,))
    options = recipe.train.model_copy(update={"epochs": 1.0, "lr": 5e-3})
    run = train(recipe.model_copy(update={"data": data, "train": options}), tmp_path / "run")

    read = dataset.load(data, recipe.task, ChatCodec.open(run.codec_path), options.seed)
    order = Order(len(read.train), options.batch_size, options.seed, Mixture(read.parts, (1, 3)))
    expected = [
        sum(sum(read.train[i].targets[1:]) for i in order.batch(step)) for step in range(order.steps(options))
    ]
    journal = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [entry["targets"] for entry in journal if "targets" in entry] == expected

    found = evaluate(run)
    assert (found["split"], found["answers"]) == ("test", [])
    assert "in_context" not in found
    assert found["after"]["targets"] == sum(len(example) - 1 for example in read.test)
    assert found["after"]["loss"] < found["before"]["loss"]
    assert "no answers side by side" in capsys.readouterr().err
    assert run.report_path.is_file()
