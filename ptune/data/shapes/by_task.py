"""The shapes that the rows of a task may have."""

from __future__ import annotations

from collections.abc import Mapping

from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.translation import Translation
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.shapes.conversations import SHAPES, Shape
from ptune.data.shapes.judged import JUDGED
from ptune.data.shapes.preferences import PREFERENCES
from ptune.data.shapes.row_weights import WEIGHT
from ptune.data.shapes.translations import translation_shape
from ptune.errors import DataError


def shapes_of(task: Chat) -> tuple[Shape, ...]:
    """The possible shapes of a task's rows. Raises: DataError if it names columns that belong to different shapes."""
    if isinstance(task, Translation):
        return (translation_shape(task),)
    known: tuple[Shape, ...] = SHAPES
    if isinstance(task, Preference):
        known = PREFERENCES
    elif isinstance(task, UnpairedPreference):
        known = JUDGED
    if type(task) is not Chat:
        return with_columns(known, task.columns.named)
    named = dict(task.columns.named)
    weight = named.pop(WEIGHT, WEIGHT)
    return tuple(shape.weighted(weight) for shape in with_columns(known, named))


def with_columns(known: tuple[Shape, ...], named: Mapping[str, str]) -> tuple[Shape, ...]:
    """The shapes with all columns that are named. Raises: DataError."""
    if not named:
        return known
    shapes = [shape for shape in known if {*shape.columns, *shape.optional}.issuperset(named)]
    if not shapes:
        rows = "; ".join(" and ".join(shape.columns) for shape in known)
        raise DataError(
            f"task.columns names {' and '.join(named)}, which do not belong together: a row has {rows}"
        )
    return tuple(shape.renamed(named) for shape in shapes)
