"""Texts, pairs and words through an encoder's bundle: labels, entities and logits as torch and seqeval have them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from seqeval.metrics.sequence_labeling import get_entities
from support import tiny_images
from support.encoder_bundles import TEXTS, tiny, torch_logits

import ptune
from ptune.codecs.words import split
from ptune.errors import FormatError, RequestError
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder.infer import EncoderModel, classification, encode, entities

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="module")
def model() -> Iterator[EncoderModel]:
    with closing(ptune.load(tiny().bundle.folder, threads=1)) as loaded:
        assert isinstance(loaded, EncoderModel)
        yield loaded


def test_labels_are_torchs(model: EncoderModel) -> None:
    for index, found in enumerate(model.classify(TEXTS[:8], "mood")):
        encoded = model.codec.encode(TEXTS[index], max_length=16)
        inputs = {"input_ids": np.array(encoded.ids), "token_type_ids": np.array(encoded.type_ids)}
        expected = torch.softmax(torch.from_numpy(torch_logits(tiny().models["mood"], inputs)), -1)
        labels = ("bad", "good", "so-so")
        assert found.label == labels[int(expected.argmax())]
        assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)
        np.testing.assert_allclose([found.scores[label] for label in labels], expected, atol=1e-5)


def test_a_pair_is_not_one_text(model: EncoderModel) -> None:
    pair, one = model.logits([("the film was good", "bad !"), "the film was good bad !"], "mood")
    encoded = model.codec.encode("the film was good", "bad !")
    inputs = {"input_ids": np.array(encoded.ids), "token_type_ids": np.array(encoded.type_ids)}
    assert max(encoded.type_ids) == 1
    np.testing.assert_allclose(pair, torch_logits(tiny().models["mood"], inputs), atol=2e-5)
    assert np.abs(pair - one).max() > 1e-3


def test_words_have_the_logits_of_their_first_token(model: EncoderModel) -> None:
    words = ("anna", "went", "to", "xyz", "!")
    (found,) = model.logits([words], "names")
    encoded = model.codec.encode_words(words)
    inputs = {"input_ids": np.array(encoded.ids), "token_type_ids": np.array(encoded.type_ids)}
    expected = torch_logits(tiny().models["names"], inputs)
    np.testing.assert_allclose(found, expected[[at for at in encoded.first if at is not None]], atol=2e-5)
    assert len(encoded.ids) > len(words) + 2


def test_words_that_are_cut_off_have_none(model: EncoderModel) -> None:
    (found,) = model.logits([tuple(["xyz"] * 40)], "names")
    assert len(found) < 40
    assert model.tag(["xyz " * 40], "names")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_an_image_in_memory_is_seen_as_its_file_is(mode: str) -> None:
    """As Pillow opens it: of any mode, and turned by nobody yet."""
    seen = {"size": [12, 8], "fit": "both", "mean": [0.5] * 3, "std": [0.5] * 3}
    record = AdapterRecord(name="x", task="image-classification", labels=("a",), preprocessing=seen)
    image = tiny_images.picture(24, 16).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", exif=exif)
    found = encode(image, record, None).inputs["pixel_values"]
    upright = encode(image.convert("RGB"), record, None).inputs["pixel_values"]
    assert found.shape == (3, 12, 8)
    np.testing.assert_array_equal(found, upright)
    turned = encode(Image.open(file), record, None).inputs["pixel_values"]
    np.testing.assert_array_equal(turned, encode(file.getvalue(), record, None).inputs["pixel_values"])
    assert not np.array_equal(turned, upright)
    with pytest.raises(RequestError, match="an image is expected, not tuple"):
        encode(("a", "pair"), record, None)


def test_entities_lie_where_they_say(model: EncoderModel) -> None:
    text = "Anna went to Paris,\tBob was in ROME."
    (found,) = model.tag([text], "names")
    assert found  # random weights tag nearly everything
    for entity in found:
        assert text[entity.begin : entity.end] == entity.text
        assert 0.2 <= entity.score <= 1
    assert model.tag([" \n", text], "names") == [[], found]


@given(st.lists(st.integers(0, 4), max_size=12))
def test_entities_are_seqevals(tags: list[int]) -> None:
    text = " ".join("word" for _ in tags)
    record = AdapterRecord(name="names", task="token-classification", labels=TAGS, problem="tags")
    found = entities(text, np.eye(5, dtype=np.float32)[tags] * 9, record)
    places = split(text)
    expected = [
        (kind, places[begin][0], places[end][1])
        for kind, begin, end in get_entities([TAGS[tag] for tag in tags])
    ]
    assert [(entity.label, entity.begin, entity.end) for entity in found] == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("O", "S-PER"), [("PER", "Ann"), ("PER", "Bob"), ("PER", "Eve")]),
        (("DET", "NOUN"), [("NOUN", "Ann Bob"), ("DET", "ran"), ("NOUN", "Eve")]),
        (("PER", "ORG"), [("ORG", "Ann Bob"), ("PER", "ran"), ("ORG", "Eve")]),
    ],
)
def test_entities_of_tags_that_are_not_bio(labels: tuple[str, str], expected: list[tuple[str, str]]) -> None:
    record = AdapterRecord(name="x", task="token-classification", labels=labels, problem="tags")
    found = entities("Ann Bob ran Eve", np.eye(2, dtype=np.float32)[[1, 1, 0, 1]] * 9, record)
    assert [(entity.label, entity.text) for entity in found] == expected


def test_what_outputs_mean() -> None:
    logits = np.array([0.0, 2.0, -1.0], np.float32)
    record = AdapterRecord(name="x", task="text-classification", labels=("a", "b", "c"))
    several = classification(logits, record.model_copy(update={"problem": "multi"}))
    assert several.scores == pytest.approx({"b": 1 / (1 + np.exp(-2)), "a": 0.5, "c": 1 / (1 + np.exp(1))})
    number = classification(
        logits[1:2], record.model_copy(update={"problem": "regression", "labels": ("stars",)})
    )
    assert (number.label, number.scores) == ("stars", {"stars": 2.0})
    with pytest.raises(FormatError, match="problem"):
        classification(logits, record)


def test_futures(model: EncoderModel) -> None:
    label = model.submit("bad !", "mood").result(20)
    assert label == model.classify(["bad !"], "mood")[0]
    assert model.submit(TEXTS[2], "names").result(20) == model.tag([TEXTS[2]], "names")[0]
    with model.engine._changed:  # nothing is computed meanwhile
        future = model.submit("bad !", "mood")
        assert future.cancel()
        assert model.engine._waiting[0].done.cancelled()
    assert future.cancelled()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: model.classify(["x"], "base"), "has no head: name an adapter: mood, names"),
        (lambda model: model.classify(["x"], "mod"), "no adapter 'mod' here"),
        (lambda model: model.classify(["x"], "names"), "use tag, not classify"),
        (lambda model: model.tag(["x"], "mood"), "use classify, not tag"),
        (lambda model: model.classify([("a", "b", "c")], "mood"), "3 texts where one, or a pair"),
        (lambda model: model.classify([3], "mood"), "a text is expected, not int"),
        (lambda model: model.logits([()], "names"), "no words"),
    ],
)
def test_wrong_calls_are_refused_in_words(call: object, words: str, model: EncoderModel) -> None:
    with pytest.raises(RequestError, match=words):
        call(model)  # type: ignore[operator]


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, ptune; m = ptune.load(sys.argv[1], threads=1); print(m.classify(['bad !'], 'mood')[0].label);"
        " m.close(); assert not {'torch', 'transformers', 'peft'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny().bundle.folder)], check=True, timeout=60)
