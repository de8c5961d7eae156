"""A folder of labels gives back what was written for an example, and says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file
from support.tiny_tokenizers import tokenizer, wordpiece_tokenizer

from ptune.codecs.chat import Example
from ptune.data.teacher.labels import (
    LabelWriter,
    Settings,
    Teacher,
    TeacherLabels,
    tokenizer_key,
    unlabelled,
    vocabulary_size,
)
from ptune.engine.decoder.answers.distributions import Distributions
from ptune.errors import DataError, FormatError

TEACHER = Teacher(bundle="bundles/big", base="b" * 64, profile="fp32", adapter="base")
SETTINGS = Settings(tokenizer="t" * 64, top=3, temperature=2.0, teacher=TEACHER)


def example(*ids: int) -> Example:
    return Example(ids, (False, *[True] * (len(ids) - 1)))


def label(seed: int, targets: int, top: int = 3) -> Distributions:
    random = np.random.default_rng(seed)
    return Distributions(
        random.integers(0, 2**32, (targets, top), np.uint32),
        random.normal(size=(targets, top)).astype(np.float32),
        random.normal(size=targets).astype(np.float32),
    )


def same(one: Distributions, other: Distributions) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "logprobs", "tail")
    )


def written(folder: Path) -> Path:
    writer = LabelWriter(folder, SETTINGS)
    writer.add([example(1, 2, 3), example(4, 5)], [label(0, 2), label(1, 1)])
    LabelWriter(folder, SETTINGS).add([example(7, 8)], [label(2, 1)])  # another process goes on
    return folder


def test_labels_are_found_by_the_tokens_of_an_example_in_any_order(tmp_path: Path) -> None:
    opened = TeacherLabels.open(written(tmp_path / "labels"))
    assert len(opened) == 3
    assert opened.settings == SETTINGS
    assert same(opened.of(example(7, 8)), label(2, 1))
    assert same(opened.of(example(1, 2, 3)), label(0, 2))
    assert same(opened.of(example(4, 5)), label(1, 1))
    other = Example((1, 2, 3), (False, False, True))  # the same tokens, of which fewer are targets
    assert other not in opened
    with pytest.raises(DataError, match="no labels of an example of 3 tokens"):
        opened.of(other)


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    folder = written(tmp_path / "labels")
    found = load_file(folder / "labels-00000.safetensors")
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "examples": ("uint8", (2, 32)),
        "ends": ("uint64", (2,)),
        "tokens": ("uint32", (3, 3)),
        "logprobs": ("float32", (3, 3)),
        "tail": ("float32", (3,)),
    }
    index = json.loads((folder / "labels.json").read_text())
    assert (index["format"], len(index["shards"]), index["shards"][0]["targets"]) == (1, 2, 3)


def test_only_what_has_no_labels_is_left(tmp_path: Path) -> None:
    done = LabelWriter(written(tmp_path / "labels"), SETTINGS).done
    new = example(9, 9, 9)
    assert list(unlabelled([example(4, 5), new, example(1, 2, 3), new], done)) == [new]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top": 4}, r"another top \(3, now 4\)"),
        ({"temperature": 1.0}, r"another temperature \(2.0, now 1.0\)"),
        ({"tokenizer": "other"}, "another tokenizer"),
        ({"teacher": TEACHER.model_copy(update={"adapter": "mine"})}, "another teacher"),
    ],
)
def test_a_folder_holds_labels_of_one_kind(change: dict[str, object], said: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "labels")
    with pytest.raises(DataError, match=f"{said}.*choose another --out"):
        LabelWriter(folder, SETTINGS.model_copy(update=change))
    moved = SETTINGS.model_copy(update={"teacher": TEACHER.model_copy(update={"bundle": "elsewhere"})})
    assert len(LabelWriter(folder, moved).done) == 3


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is no folder of labels"):
        LabelWriter(tmp_path, SETTINGS)
    with pytest.raises(FormatError, match="make them with ptune label"):
        TeacherLabels.open(tmp_path)


def test_damage_is_said(tmp_path: Path) -> None:
    folder = written(tmp_path / "labels")
    shard, index = folder / "labels-00001.safetensors", folder / "labels.json"
    whole, before = shard.read_bytes(), index.read_text()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FormatError, match=r"labels-00001\.safetensors is damaged"):
        TeacherLabels.open(folder)
    shard.unlink()
    with pytest.raises(FormatError, match=r"labels-00001\.safetensors is missing"):
        TeacherLabels.open(folder)
    shard.write_bytes(whole)
    for text, said in (
        (before.replace('"format": 1', '"format": 2'), "has format 2"),
        (before.replace('"top": 3', '"top": 0'), "settings.top"),
        (before[:-20], "is damaged"),
    ):
        index.write_text(text)
        with pytest.raises(FormatError, match=said):
            TeacherLabels.open(folder)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_distributions_come_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("labels") / "made"
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    made = []
    for number, targets in enumerate(lengths):
        floats = st.floats(width=32, allow_nan=False, max_value=0)
        made.append(
            Distributions(
                data.draw(arrays.arrays(np.uint32, (targets, 3))),
                data.draw(arrays.arrays(np.float32, (targets, 3), elements=floats)),
                data.draw(arrays.arrays(np.float32, targets, elements=floats)),
            )
        )
        LabelWriter(folder, SETTINGS).add([example(number, *range(targets))], made[-1:])
    opened = TeacherLabels.open(folder)
    for number, targets in enumerate(lengths):
        assert same(opened.of(example(number, *range(targets))), made[number])


def test_tokenizers_are_told_apart_by_which_id_stands_for_what() -> None:
    one, other = tokenizer().backend_tokenizer, wordpiece_tokenizer().backend_tokenizer
    assert tokenizer_key(one) == tokenizer_key(type(one).from_str(one.to_str())) != tokenizer_key(other)
    more = type(one).from_str(one.to_str())
    more.add_tokens(["<new>"])
    assert tokenizer_key(more) != tokenizer_key(one)
    assert vocabulary_size(more) == vocabulary_size(one) + 1 == len(one.get_vocab()) + 1
