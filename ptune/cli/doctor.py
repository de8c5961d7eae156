"""ptune doctor RECIPE"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro

from ptune.cli.parse import say_next
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.chat import Chat
from ptune.config.classification import ImageClassification, TextClassification, TokenClassification
from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.config.retrieval import Embedding, Reranking
from ptune.config.translation import Translation
from ptune.kinds import DECODER

if TYPE_CHECKING:
    from rich.console import Console

Examined: TypeAlias = "tuple[Callable[[], dict[str, Any]], Callable[[Console], None], bool]"
"""What was found as JSON types, how it is shown, and whether there are errors."""


class DoctorOptions(Recipe):
    """Every field of the recipe, and how to print what was found."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""


def run(arguments: list[str]) -> int:
    """ptune doctor RECIPE [options]"""
    return with_recipe("doctor", doctor, arguments)


def doctor(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Examines the data of `recipe` as changed by options. Exit code 1 where there is an error."""
    options = resolve(recipe, arguments, program, DoctorOptions)
    recipe = recipe_in(options)
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    kinds = {
        Chat: _chat,
        Translation: _translation,
        ImageClassification: _images,
        Embedding: _pairs,
        Reranking: _pairs,
        Recommendation: _interactions,
    }
    examined = kinds.get(type(recipe.task), _labels)
    described, show, has_errors = examined(recipe)
    if options.as_json:
        console.out(json.dumps(described(), ensure_ascii=False, indent=2), highlight=False)
    else:
        show(console)
        if not has_errors:
            again = [argument for argument in arguments if argument not in ("--json", "--no-json")]
            say_next(f"{program.replace(' doctor ', ' train ', 1)} {shlex.join(again)}".rstrip())
    return int(has_errors)


def _chat(recipe: Recipe) -> Examined:
    from ptune.doctor.examination import examine
    from ptune.doctor.kept_codec import chat_codec
    from ptune.doctor.show import document, show
    from ptune.tasks.chat.recipe_codec import codec_for

    codec = codec_for(recipe.chat, chat_codec(recipe.backbone))
    found = examine(recipe.data, recipe.chat, codec, recipe.train.seed)
    return lambda: document(found), lambda console: show(found, console), found.has_errors


def _translation(recipe: Recipe) -> Examined:
    from ptune.backbone.kind import kind_of_recipe

    if kind_of_recipe(recipe) is DECODER:
        return _chat(recipe)
    from ptune.doctor.seq2seq import examine_seq2seq
    from ptune.doctor.show import document, show

    found = examine_seq2seq(recipe)
    return lambda: document(found), lambda console: show(found, console), found.has_errors


def _labels(recipe: Recipe) -> Examined:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.doctor.classification import examine_labelled
    from ptune.doctor.show_labels import document, show

    assert isinstance(recipe.task, TextClassification | TokenClassification)
    codec = load_sequence_codec(recipe.backbone)
    found = examine_labelled(recipe.data, recipe.task, codec, recipe.train.seed)
    return lambda: document(found), lambda console: show(found, console), found.has_errors


def _pairs(recipe: Recipe) -> Examined:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.doctor.pairs import examine_pairs
    from ptune.doctor.show_pairs import document, show

    task = recipe.task if isinstance(recipe.task, Embedding) else None
    found = examine_pairs(recipe.data, task, load_sequence_codec(recipe.backbone), recipe.train.seed)
    return lambda: document(found), lambda console: show(found, console), found.has_errors


def _interactions(recipe: Recipe) -> Examined:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.doctor.interactions import examine_interactions
    from ptune.doctor.show_pairs import document, show

    found = examine_interactions(recipe, load_sequence_codec(recipe.backbone))
    return lambda: document(found), lambda console: show(found, console), found.has_errors


def _images(recipe: Recipe) -> Examined:
    from ptune.backbone.image_model import read_preprocessing
    from ptune.doctor.images import examine_images
    from ptune.doctor.show_images import document, show

    assert isinstance(recipe.task, ImageClassification)
    preprocessing = read_preprocessing(recipe.backbone, recipe.task.size)
    found = examine_images(recipe.data, recipe.task, preprocessing, recipe.train.seed)
    return lambda: document(found), lambda console: show(found, console), found.has_errors
