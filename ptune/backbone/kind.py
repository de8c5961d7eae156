"""Which kind of model a recipe trains, a run has trained, or a pretrained model is."""

from __future__ import annotations

from ptune.backbone.seq2seq import is_seq2seq
from ptune.codecs import seq2seq as seq2seq_codec
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Recipe
from ptune.config.translation import Translation
from ptune.formats.run import Run
from ptune.kinds import DECODER, ENCODER, SEQ2SEQ, Kind


def kind_of_recipe(recipe: Recipe) -> Kind:
    """Reads the backbone's config where both a decoder and an encoder-decoder could do it. Raises: BackboneError."""
    if not isinstance(recipe.task, Chat):
        return ENCODER
    return kind_of_backbone(recipe.backbone) if isinstance(recipe.task, Translation) else DECODER


def kind_of_run(run: Run, recipe: Recipe) -> Kind:
    """By the codec in the run's folder: its backbone may be gone by now."""
    if (run.codec_path / seq2seq_codec.FILE).is_file():
        return SEQ2SEQ
    return DECODER if isinstance(recipe.task, Chat) else ENCODER


def kind_of_backbone(backbone: Backbone) -> Kind:
    """Of a pretrained model that writes. Raises: BackboneError."""
    return SEQ2SEQ if is_seq2seq(backbone) else DECODER
