"""Makes a teacher's labels of files of log-probabilities that a server wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ptune.codecs.chat import Example
from ptune.config.recipe import Recipe
from ptune.data.examples.index import ExampleIndex
from ptune.data.teacher.labels import LabelWriter, Settings, Teacher, tokenizer_key, unlabelled
from ptune.data.teacher.served_logprobs import Scored, TokenOf, scored
from ptune.engine.decoder.answers.distributions import Distributions
from ptune.errors import DataError, UsageError
from ptune.progress import say
from ptune.tasks.distillation.student import Student

_A_SHARD = 256  # examples
_ROUNDING = 1e-3  # that a sum of probabilities may be above 1, of a server that computes in 16 bits
_NO_TAIL = 1e-6
_OTHERS = 0.01  # mass on rows that are no tokens, in a model that has such rows


def label_from_files(
    recipe: Recipe, files: Sequence[Path], out: Path | None = None, *, top: int | None = None
) -> Path:
    """Labels the recipe's examples with the log-probabilities in `files`, and returns the folder of labels.

    out: default: the recipe's `task.teacher_labels`. top: tokens that are kept of each target; default: as many as all have.

    Raises: RecipeError where the task is another; DataError where a file cannot be read, holds none of the examples, or its
    log-probabilities are not those of whole distributions; UsageError where `top` is more than a target has.
    """
    student = Student.of(recipe)
    token_of = _tokens_by_bytes(student)
    made = student.data()
    index = ExampleIndex(unlabelled(student.to_label(made), set()))
    found = _survey(files, index, student, token_of)
    kept = found.fewest if top is None else top
    if not 1 <= kept <= found.fewest:
        raise UsageError(
            f"--top must be from 1 to {found.fewest}, as many tokens as each target has in the files (is {kept})"
        )
    teacher = Teacher(bundle=", ".join(map(str, files)), base="", profile="served", adapter=found.model)
    settings = Settings(tokenizer=tokenizer_key(student.codec.tokenizer), top=kept, teacher=teacher)
    writer = LabelWriter(student.task.teacher_labels if out is None else out, settings)
    some: dict[Example, Distributions] = {}
    for example, text in _labelled(files, index, token_of):
        if example in some or not len(list(unlabelled([example], writer.done))):
            continue
        some[example] = _distributions(example, text, kept, student.vocabulary)
        if len(some) == _A_SHARD:
            writer.add(list(some), list(some.values()))
            some = {}
    if some:
        writer.add(list(some), list(some.values()))
    left = sum(1 for _ in unlabelled(student.to_label(made), writer.done))
    if left:
        say(
            f"{left} examples have no labels yet: a training wants them for all that it trains on",
            style="yellow",
        )
    return writer.folder


class _Found:
    """What files hold."""

    def __init__(self) -> None:
        self.lines = self.examples = 0
        self.fewest = 2**31  # tokens of a target
        self.most = 0
        self.tail = 0.0  # largest mass of all tokens that are not named
        self.models: Counter[str] = Counter()

    @property
    def model(self) -> str:
        """The one that wrote most of them."""
        return self.models.most_common(1)[0][0] or "a server"


def _survey(files: Sequence[Path], index: ExampleIndex, student: Student, token_of: TokenOf) -> _Found:
    """Reads all files once. Raises: DataError."""
    found, vocabulary = _Found(), student.vocabulary
    for text in _texts(files, token_of):
        found.lines += 1
        for example in _covered(text, index):
            found.examples += 1
            found.models[text.model] += 1
            for at in _places(example):
                _check(text.likely[at], vocabulary, text.place, student)
                likely = _known(text.likely[at], vocabulary)
                found.tail = max(found.tail, 1 - _mass(likely))
                found.fewest, found.most = min(found.fewest, len(likely)), max(found.most, len(likely))
    names = ", ".join(map(str, files))
    if not found.examples:
        raise DataError(
            f"none of the {found.lines} texts in {names} begins with an example of this recipe: their tokens are those of another"
            f" tokenizer than {student.recipe.backbone.model}'s, or of other rows, another chat template or system message"
        )
    if found.most < 2:
        raise DataError(
            f'{names}: the log-probabilities are of the texts\' own tokens alone: send the requests with "prompt_logprobs": 20'
        )
    if found.tail < _NO_TAIL and found.most < vocabulary:
        raise DataError(
            f"{names}: the probabilities of {found.most} tokens add up to 1 everywhere, so the mass of all others, the tail, is lost: let"
            " the server write them before it cuts and rescales its distribution (vLLM: --logprobs-mode raw_logprobs)"
        )
    return found


def _check(likely: Mapping[int, float], vocabulary: int, place: str, student: Student) -> None:
    """Raises: DataError where these are no probabilities of the student's tokens. A model may have rows that are no tokens."""
    if _mass(likely) - _mass(_known(likely, vocabulary)) > _OTHERS:
        raise DataError(
            f"{place}: token {max(likely)} is likely, and none of the {vocabulary} of {student.recipe.backbone.model}: the server's model has another"
            " tokenizer"
        )
    mass = _mass(likely)
    if not (mass <= 1 + _ROUNDING and max(likely.values()) <= _ROUNDING):
        raise DataError(
            f"{place}: the probabilities of a token's place add up to {mass:.4g}: these are no log-probabilities (vLLM: --logprobs-mode"
            " raw_logprobs)"
        )


def _known(likely: Mapping[int, float], vocabulary: int) -> dict[int, float]:
    """Without rows that are no tokens."""
    return {token: value for token, value in likely.items() if 0 <= token < vocabulary}


def _mass(likely: Mapping[int, float]) -> float:
    return math.fsum(math.exp(min(value, 700.0)) for value in likely.values())


def _texts(files: Sequence[Path], token_of: TokenOf) -> Iterator[Scored]:
    for path in files:
        yield from scored(path, token_of)


def _labelled(
    files: Sequence[Path], index: ExampleIndex, token_of: TokenOf
) -> Iterator[tuple[Example, Scored]]:
    for text in _texts(files, token_of):
        for example in _covered(text, index):
            yield example, text


def _covered(text: Scored, index: ExampleIndex) -> list[Example]:
    """The examples that a text begins with, and all of whose targets it has."""
    return [one for one in index.beginnings(text.ids) if all(at in text.likely for at in _places(one))]


def _places(example: Example) -> list[int]:
    return [at for at, target in enumerate(example.targets) if target and at > 0]


def _distributions(example: Example, text: Scored, top: int, vocabulary: int) -> Distributions:
    places = _places(example)
    found = Distributions.empty(len(places), top)
    for row, at in enumerate(places):
        best = sorted(_known(text.likely[at], vocabulary).items(), key=lambda pair: (-pair[1], pair[0]))[:top]
        found.tokens[row] = [token for token, _ in best]
        found.logprobs[row] = [min(value, 0.0) for _, value in best]
        rest = 1 - _mass(dict(best))
        found.tail[row] = math.log(rest) if rest > 0 else -np.inf
    return found


def _tokens_by_bytes(student: Student) -> dict[bytes, int]:
    """The id of each token whose bytes no other has."""
    table = student.codec.token_table(student.vocabulary)
    counts = Counter(table)
    return {spelled: token for token, spelled in enumerate(table) if counts[spelled] == 1}
