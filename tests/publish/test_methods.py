"""Adapters that are no low-rank update, on every kind of model: trained, read by plain peft, and served merged or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import classified, tiny_images, tiny_models
from support.seq2seq_models import build_seq2seq

import ptune
from ptune import publish
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.translation import Translation
from ptune.errors import RecipeError, UsageError
from ptune.evaluation.classification.held_out import of_run
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.adalora import AdaLora
from ptune.methods.hra import Hra
from ptune.methods.ia3 import Ia3
from ptune.methods.loha import LoHa
from ptune.methods.lora import Lora
from ptune.methods.oft import Oft
from ptune.methods.peft_method import PeftMethod
from ptune.methods.road import Road
from ptune.methods.vera import Vera
from ptune.tasks.classification.image_predictions import image_predictor
from ptune.tasks.classification.predictions import predictor

FEW = Train(max_steps=4, lr=1e-2, batch_size=8)


def test_a_chat_adapter_is_proved_merged(tmp_path: Path) -> None:
    tiny_models.build(tmp_path / "model", "llama")
    tiny_models.write_jsonl(tmp_path / "data.jsonl", tiny_models.conversations(16))
    recipe = Recipe(
        backbone=Backbone(model=str(tmp_path / "model"), dtype="float32"),
        method=Lora(r=4, dora=True),
        data=Data(files=(tmp_path / "data.jsonl",), validation_share=0.3),
        train=FEW,
    )
    run = train(recipe, tmp_path / "run")
    proof = publish.export_run(run, tmp_path / "bundle", name="x", merge=True, threads=1, anyway=True)
    assert proof.passed


@pytest.mark.parametrize(
    ("method", "folded", "sockets"),
    [
        (AdaLora(init_r=4, target_r=2), "ADALORA", None),
        (Hra(r=4), "HRA", None),
        (Vera(r=8), "VERA", None),
        (Lora(r=4, dora=True), "LORA (DoRA)", ("gains",)),
        (Ia3(), "IA3", ("gains",)),
        (Road(group_size=8), "ROAD", ("turns",)),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, PeftMethod) else "",
)
def test_a_chat_adapter_that_folds_is_proved_beside_its_base(
    method: Any,
    folded: str,
    sockets: tuple[str, ...] | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_models.build(tmp_path / "model", "llama")
    tiny_models.write_jsonl(tmp_path / "data.jsonl", tiny_models.conversations(16))
    recipe = Recipe(
        backbone=Backbone(model=str(tmp_path / "model"), dtype="float32"),
        method=method,
        data=Data(files=(tmp_path / "data.jsonl",), validation_share=0.3),
        train=FEW,
    )
    run = train(recipe, tmp_path / "run")
    assert "served merged" not in capsys.readouterr().err
    assert publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True).passed
    bundle = Bundle.open(tmp_path / "bundle")
    record, ends = bundle.adapter("x"), bundle.decoder.ends
    assert record.folded is not None
    assert record.folded.method == folded
    assert (None if ends is None else ends.kinds) == sockets
    assert all(hop.passed for hop in record.hops)


def test_a_classifier_of_texts_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = classified.trained(tmp_path, method=Oft(oft_block_size=8), train=FEW)
    assert run.record().hops[0].max_abs_logprob == 0.0
    assert "adapters of Oft are served merged" in capsys.readouterr().err
    rows = of_run(run).rows[:8]
    expected = predictor(run, "cpu")(rows, lambda _: None)
    with pytest.raises(UsageError, match="whose adapters are served merged: add --merge"):
        publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True)
    assert publish.export_run(run, tmp_path / "bundle", name="x", merge=True, threads=1, anyway=True).passed
    with closing(ptune.load(tmp_path / "bundle", threads=1)) as model:
        found = model.logits([row.input for row in rows], "x")
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-4)


@pytest.mark.parametrize(("family", "method"), [("resnet", LoHa(r=2)), ("vit", Vera(r=4))])
def test_a_classifier_of_images_is_merged(family: str, method: Any, tmp_path: Path) -> None:
    tiny_images.build(tmp_path / "model", family)
    tiny_images.labelled_folder(tmp_path / "images")
    recipe = Recipe(
        task=ImageClassification(),
        backbone=Backbone(model=str(tmp_path / "model")),
        method=method,
        data=Data(files=(tmp_path / "images",), validation_share=0.25),
        train=FEW,
    )
    run = train(recipe, tmp_path / "run")
    assert run.record().hops[0].max_abs_logprob == 0.0
    rows = of_run(run).rows[:4]
    expected = np.stack(image_predictor(run, "cpu")(rows, lambda _: None))
    publish.merge_run(run, tmp_path / "merged")
    plain = transformers.pipeline(
        "image-classification", str(tmp_path / "merged"), device="cpu", function_to_apply="none"
    )
    found = [
        [score["score"] for score in sorted(plain(row.input.open()), key=lambda one: str(one["label"]))]
        for row in rows
    ]
    order = np.argsort(list(tiny_images.LABELS))
    np.testing.assert_allclose(found, expected[:, order], atol=1e-3)


def test_an_encoder_decoders_adapter_is_served_folded_or_is_for_peft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folded").mkdir()
    run = swapped(tmp_path / "folded", Vera(r=4))
    assert run.record().hops[0].max_abs_logprob == 0.0
    with pytest.raises(
        UsageError, match="merges adapters of Lora alone, and none of Vera: leave out --merge"
    ):
        publish.export_run(run, tmp_path / "b", name="x", merge=True, threads=1, anyway=True)
    assert publish.export_run(run, tmp_path / "b", name="x", threads=1, anyway=True).passed
    capsys.readouterr()
    run = swapped(tmp_path, Oft(oft_block_size=8))
    assert "on an encoder-decoder are for PEFT: ptune merges none there" in capsys.readouterr().err
    for merge in (False, True):
        with pytest.raises(UsageError, match="merges adapters of Lora alone, and none of Oft: load"):
            publish.export_run(run, tmp_path / "c", name="x", merge=merge, threads=1, anyway=True)


def test_recommendations_lie_beside_an_adapter_of_lora(tmp_path: Path) -> None:
    from support.recommendation_runs import recipe

    with pytest.raises(RecipeError, match="recommendation is trained with method Lora"):
        train(recipe(method=Vera(r=4)), tmp_path / "run")


def swapped(place: Path, method: Any) -> Run:
    """A finished run of T5 that swaps two words."""
    model, words = build_seq2seq(place / "t5", "t5"), ("one", "two", "three", "four", "five")
    pairs: Sequence[tuple[str, str]] = [(one, two) for one in words for two in words]
    text = "".join(json.dumps({"source": f"{a} {b}", "target": f"{b} {a}"}) + "\n" for a, b in pairs)
    (place / "pairs.jsonl").write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    recipe = Recipe(
        task=Translation(),
        backbone=Backbone(model=str(model)),
        method=method,
        data=Data(files=(place / "pairs.jsonl",)),
        train=FEW,
    )
    return train(recipe, place / "run")
