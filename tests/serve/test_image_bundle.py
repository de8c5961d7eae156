"""Images, trained, exported and served by ptune's own code: what comes over HTTP is what plain peft computes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.special import softmax
from support import tiny_images
from support.fake_chat_model import serving

import ptune
from ptune import publish
from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.data.images.labelled import read_images
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.tasks.classification.image_predictions import image_predictor
from ptune_serve.app import create_encoder_app

LABELS = Labels(tiny_images.LABELS, "single")


@dataclass
class Served:
    http: httpx.Client
    files: list[Path]
    expected: np.ndarray  # [files, labels], by torch and peft


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    tiny_images.build(folder / "model", "resnet")
    images = tiny_images.labelled_folder(folder / "images")
    run = train(
        Recipe(
            name="tiny",
            task=ImageClassification(),
            backbone=Backbone(model=str(folder / "model")),
            method=Lora(r=2, alpha=8),
            data=Data(files=(images,), validation_share=0.25),
            train=Train(max_steps=4, lr=5e-3, batch_size=6),
        ),
        folder / "run",
    )
    assert publish.export_run(Run.open(run.folder), folder / "bundle", name="clothes", threads=1).passed
    hops = publish.verify(folder / "bundle", threads=1).adapters["clothes"]
    assert (hops[-1].name, hops[-1].passed, hops[-1].prompts) == ("engine → server", True, 6)
    rows = read_images([images], ImageClassification(), LABELS)[::5]
    logits = np.stack(image_predictor(run, "cpu")(rows, lambda _: None))
    files = sorted(images.rglob("*.png"))
    model = ptune.load(folder / "bundle", threads=1)
    try:
        with serving(create_encoder_app(model)) as url, httpx.Client(base_url=url) as http:
            yield Served(http, files[::5], softmax(logits, -1))
    finally:
        model.close()


def test_an_images_own_bytes(served: Served) -> None:
    for file, expected in zip(served.files, served.expected, strict=True):
        kind = {"content-type": "image/png"}
        answer = served.http.post("/v1/classify?model=clothes", content=file.read_bytes(), headers=kind)
        assert answer.status_code == 200, answer.text
        [item] = answer.json()["data"]
        np.testing.assert_allclose(item["probs"], expected, atol=1e-4)
        assert item["label"] == LABELS.names[int(expected.argmax())]


def test_several_as_data_uris(served: Served) -> None:
    uris = [f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in served.files]
    body = {"model": "clothes", "input": [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]}
    answer = served.http.post("/v1/classify", json=body)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose([item["probs"] for item in answer.json()["data"]], served.expected, atol=1e-4)


def test_a_text_is_refused_where_images_are_served(served: Served) -> None:
    answer = served.http.post("/v1/classify", json={"model": "clothes", "input": "a shirt"})
    assert answer.status_code == 400
    assert "image" in answer.json()["error"]["message"]
