"""Writes a teacher's labels of a recipe's training examples: a bundle's engine computes many of them at once."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.recipe import Recipe
from ptune.data.teacher.labels import (
    LabelWriter,
    Settings,
    Teacher,
    tokenizer_key,
    unlabelled,
)
from ptune.engine.decoder.answers.distributions import Wanted
from ptune.engine.decoder.engine import Engine
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import BASE, Bundle
from ptune.progress import Progress, say
from ptune.tasks.distillation.student import Student

_A_SHARD = 256  # examples: as much is lost by an interruption


def label(
    recipe: Recipe,
    bundle: Path,
    out: Path | None = None,
    *,
    adapter: str = BASE,
    top: int = 32,
    temperature: float = 1.0,
    options: EngineOptions = EngineOptions(),
) -> Path:
    """Labels the examples of the recipe's `data.files` that have no labels in `out` yet, and returns that folder.

    out: default: the recipe's `task.teacher_labels`. adapter: of the bundle, whose model is the teacher.
    An interruption leaves a folder that the same call goes on with.

    Raises: RecipeError where the task is another; UsageError for options out of range, or a teacher with other tokens; DataError,
    RequestError where an example is too long for the engine.
    """
    student = Student.of(recipe)
    vocab = student.vocabulary
    _check(top, temperature, vocab)
    opened = Bundle.open(bundle)
    teacher = _teacher(opened, adapter, options)
    key = _same_tokens(opened, student.codec.tokenizer, recipe.backbone.model)
    settings = Settings(tokenizer=key, top=top, temperature=temperature, teacher=teacher)
    writer = LabelWriter(student.task.teacher_labels if out is None else out, settings)
    made = student.data()
    left = sum(1 for _ in unlabelled(student.to_label(made), writer.done))
    if not left:
        say(f"all {sum(1 for _ in student.to_label(made))} examples have labels in {writer.folder}")
        return writer.folder
    wanted = Wanted(top, vocab, temperature)
    with (
        contextlib.closing(Engine.open(opened, options)) as engine,
        Progress("labelling", len(writer.done) + left, unit="examples", done=len(writer.done)) as progress,
    ):
        for some in _shards(unlabelled(student.to_label(made), writer.done)):
            labels = []
            for one in engine.distributions([(each.ids, each.targets) for each in some], adapter, wanted):
                labels.append(one)
                progress.advance()
            writer.add(some, labels)
    return writer.folder


def _shards(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while some := list(itertools.islice(examples, _A_SHARD)):
        yield some


def _check(top: int, temperature: float, vocab: int) -> None:
    if not 1 <= top <= vocab:
        raise UsageError(f"--top must be from 1 to the {vocab} tokens of the vocabulary (is {top})")
    if not 0.01 <= temperature <= 100:
        raise UsageError(f"--temperature must be from 0.01 to 100 (is {temperature})")


def _teacher(bundle: Bundle, adapter: str, options: EngineOptions) -> Teacher:
    """Raises: FormatError where the bundle holds no decoder; AdapterError where there is no such adapter; UsageError where it has
    tokens of its own."""
    bundle.decoder  # noqa: B018 - refuses other models
    record = None if adapter == BASE else bundle.adapter(adapter)
    if record is not None and record.new_tokens:
        raise UsageError(f"the adapter {adapter!r} has tokens of its own, which no student has")
    return Teacher(
        bundle=str(bundle.folder),
        base=bundle.manifest.base.hash,
        profile=options.profile or bundle.manifest.default_profile,
        adapter=adapter,
        files={} if record is None else record.files,
    )


def _same_tokens(bundle: Bundle, student: Tokenizer, named: str) -> str:
    """The hash of both tokenizers. Raises: UsageError where they differ."""
    key = tokenizer_key(student)
    if tokenizer_key(ChatCodec.open(bundle.codec_path).tokenizer) != key:
        raise UsageError(
            f"{bundle.folder} has another tokenizer than {named}, so that its tokens are not the student's: a teacher and its"
            " student are of one family"
        )
    return key
