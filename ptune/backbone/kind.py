"""The kind of model of a recipe, a run or a pretrained model."""

from __future__ import annotations

from ptune.backbone.seq2seq import is_seq2seq
from ptune.codecs import seq2seq as seq2seq_codec
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Recipe
from ptune.config.translation import Translation
from ptune.formats.run import Run
from ptune.kinds import DECODER, ENCODER, SEQ2SEQ, Kind


def kind_of_recipe(recipe: Recipe) -> Kind:
    """The kind that a recipe trains. Reads the backbone's config if the task allows both a decoder and an encoder-decoder.

    Raises: BackboneError.
    """
    if not isinstance(recipe.task, Chat):
        return ENCODER
    return kind_of_backbone(recipe.backbone) if isinstance(recipe.task, Translation) else DECODER


def kind_of_run(run: Run, recipe: Recipe) -> Kind:
    """The kind that a run trained, from the codec in its folder: the backbone may no longer exist."""
    if (run.codec_path / seq2seq_codec.FILE).is_file():
        return SEQ2SEQ
    return DECODER if isinstance(recipe.task, Chat) else ENCODER


def kind_of_backbone(backbone: Backbone) -> Kind:
    """The kind of a pretrained generating model. Raises: BackboneError."""
    return SEQ2SEQ if is_seq2seq(backbone) else DECODER
