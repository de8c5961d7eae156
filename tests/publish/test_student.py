"""A student without some of its base's layers is served as what it is, beside its adapter or merged, and drafts for the whole model."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from support.tiny_models import build, conversations, write_jsonl

from ptune import publish
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.options import EngineOptions
from ptune.engine.sampling import Sampling
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.lora import Lora

OPTIONS = EngineOptions(threads=1)
ASKED = Request((5, 9, 30, 7), sampling=Sampling(temperature=0), max_tokens=24)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("student")
    build(folder / "model", "llama", num_hidden_layers=3)
    write_jsonl(folder / "data.jsonl", conversations(40))
    recipe = Recipe(
        method=Lora(r=4),
        backbone=Backbone(model=str(folder / "model"), dtype="float32", keep_layers=(0, 2)),
        data=Data(files=(folder / "data.jsonl",), validation_share=0.45),
        train=Train(max_steps=3, lr=2e-2, batch_size=4),
    )
    return train(recipe, folder / "run")


def test_its_adapter_is_served_beside_the_layers_that_were_kept(student: Run) -> None:
    out = student.folder.parent / "beside"
    assert publish.export_run(student, out, name="small", threads=1).passed
    bundle = Bundle.open(out)
    assert len(bundle.decoder.cache) == 2
    assert bundle.manifest.base.hash == student.record().base.hash
    assert publish.verify(out, threads=1).passed
    assert "only the layers 0, 2 of that model" in student.card_path.read_text()


def test_merged_it_drafts_for_the_whole_model(student: Run) -> None:
    folder = student.folder.parent
    assert publish.export_run(student, folder / "merged", name="small", merge=True, threads=1).passed
    whole = Backbone(model=str(folder / "model"), dtype="float32")
    assert publish.export_backbone(whole, folder / "whole", threads=1).passed
    with contextlib.closing(Engine.open(folder / "whole", OPTIONS)) as engine:
        alone = [token.id for token in engine.generate(ASKED)]
    drafting = replace(OPTIONS, draft_model=folder / "merged")
    with contextlib.closing(Engine.open(folder / "whole", drafting)) as engine:
        assert [token.id for token in engine.generate(ASKED)] == alone
        assert engine.stats().drafted > 0
