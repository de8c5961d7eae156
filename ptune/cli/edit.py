"""ptune edit FILE ROW --set COLUMN=VALUE"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell
from ptune.data.edit import copy_of, write_edited
from ptune.errors import UsageError


def run(arguments: list[str]) -> int:
    return parse(edit, arguments, "edit")


def edit(
    file: Positional[Path],
    row: Positional[int],
    set: UseAppendAction[tuple[str, ...]] = (),  # noqa: A002 - the option's name
    delete: bool = False,
    out: Path | None = None,
) -> int:
    """Writes a copy of a data file in which one row is corrected, or left out. The file itself stays.

    The copy is JSONL; its lines have the numbers that the rows have in the file, so that what `ptune doctor` told of a
    place stays right.

    Args:
        file: JSONL, JSON, CSV, TSV, Parquet or Arrow.
        row: The row's line, or in a file without lines its number, as `ptune doctor` tells it.
        set: COLUMN=VALUE; may be said again. What is no text in the file is written as JSON.
        delete: Leave the row out.
        out: The copy; default: NAME.edited.jsonl beside the file, or the next name that is free; such a copy is edited in place.
    """
    if delete == bool(set):
        raise UsageError("say what to do with the row: --set COLUMN=VALUE, or --delete")
    written = dict[str, str]()
    for word in set:
        column, named, value = word.partition("=")
        if not named or not column:
            raise UsageError(f"--set {word} names no column: write --set COLUMN=VALUE")
        written[column] = value
    target = out or copy_of(file, file.parent)
    made = write_edited(file, target, row, None if delete else written)
    tell(copy=made.copy, left_out=made.left_out)
    left = f"; {made.left_out} rows that cannot be read are left out" if made.left_out else ""
    print(f"{shown(target)}: row {row} {'left out' if delete else 'corrected'}{left}")
    say_next(f"ptune doctor RECIPE --data.files {shown(target)}")
    return 0
