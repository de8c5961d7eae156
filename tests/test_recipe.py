"""Recipes: the same from Python, YAML and the command line, and strict about names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import RecipeError
from ptune.methods import METHODS
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora


@given(
    method=st.one_of(
        st.builds(
            Lora, r=st.integers(1, 256), target_modules=st.just(("q_proj", "v_proj")), rslora=st.booleans()
        ),
        st.builds(FreezeExceptLast, layers=st.integers(1, 8)),
        st.just(Full()),
    ),
    lr=st.floats(1e-8, 1, allow_nan=False),
    files=st.lists(st.text("abc äñ/._-", min_size=1).map(Path), max_size=3),
)
def test_yaml_round_trip(
    tmp_path_factory: pytest.TempPathFactory, method: Lora, lr: float, files: list[Path]
) -> None:
    recipe = Recipe(method=method, train=Train(lr=lr), data=Data(files=tuple(files)))
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    recipe.save(path)
    assert Recipe.load(path) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {lrr: 1}", "train.lrr: no such field; did you mean 'lr'"),
        ("train: {lr: fast}", "train.lr must be a number; it is 'fast'"),
        ("train: {batch_size: 2.5}", "train.batch_size must be a whole number; it is 2.5"),
        ("train: {fast: perhaps}", "train.fast must be true or false; it is 'perhaps'"),
        ("train: {lr: -1}", "train.lr must be greater than 0; it is -1"),
        ("train: {seed: 18446744073709551616}", "train.seed must be less than 18446744073709551616"),
        ("train: {lr: fast}", "train.lr"),
        ("train: {schedule: cosin}", "'cosine', 'linear', 'constant' or 'wsd'"),
        ("method: {kind: Lorra}", "did you mean 'Lora'"),
        ("method: {kind: DoRA}", "no method 'DoRA': it is Lora with dora: true"),
        ("method: {kind: LoRA+}", "it is Lora, and train.lora_plus_ratio"),
        ("method: {kind: Lora, rank: 8}", "method.rank: no such field; known: target_modules, "),
        ("method: {kind: Vera, alpha: 8}", "method.alpha: no such field; known: target_modules, "),
        ("method: {kind: Vera, r: 0}", "method.r must be greater than "),
        ("backbone: {quantize: nf4}\nmethod: {kind: Full}", "quantised weights cannot be trained"),
        ("data: {files: [a, b], weights: [1]}", "data: there are 1 weights for 2 files"),
        ("data: {weights: [1]}", "data: there are 1 weights for 0 files"),
        ("data: {files: [a, b], weights: [1, -1]}", "data: weights must be numbers of at least 0"),
        ("data: {files: [a, b], weights: [1, .nan]}", "data.weights.1 must be a finite number"),
        ("train: {epochs: .inf}", "train.epochs must be a finite number"),
        ("train: {lr: .inf}", "train.lr must be a finite number"),
        ("data: {files: [a, b], weights: [0, 0]}", "data: all weights are 0: at least one must be more"),
        ("name: ../x", "plain folder name"),
        ("[1, 2]", "expected a mapping"),
        ("{", "cannot read the recipe"),
        ("name: x\ntask: [", "recipe.yaml: line 2, column 8 is no YAML: expected the node content"),
        ("name: 2024-13-45", "cannot read the recipe"),
        ("name: " + "[" * 5000, "nested too deeply"),
        ("data: 5", "data must be a mapping of fields; it is 5"),
        ("data: {files: a}", "data.files must be a list; it is 'a'"),
    ],
)
def test_wrong_recipes_say_what_is_allowed(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert words in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_told_without_pythons_words(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml: there is no such file; `ptune init` writes one$"):
        Recipe.load(tmp_path / "x.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: für".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml: it is not UTF-8, from byte 8 on$"):
        Recipe.load(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match=r"cannot read the recipe [^:]*: Is a directory$"):
        Recipe.load(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_defaults_and_survives_yaml(method: type, tmp_path: Path) -> None:
    recipe = Recipe(method=method(), backbone=Backbone())
    recipe.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == recipe
