"""ptune import CONFIG"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell
from ptune.errors import UsageError
from ptune.foreign.read_foreign import TITLES, Imported, one_line, read_foreign
from ptune.formats.whole_write import write_text


def run(arguments: list[str]) -> int:
    return parse(import_recipe, arguments, "import")


def import_recipe(
    config: Annotated[Path, tyro.conf.Positional],
    out: Path = Path("recipe.yaml"),
    tool: Annotated[
        Literal["axolotl", "llamafactory", "trl", "torchtune"] | None, tyro.conf.arg(name="from")
    ] = None,
    task: Literal["sft", "dpo", "orpo", "cpo", "kto", "reward", "grpo", "rloo"] | None = None,
    devices: int = 1,
    overwrite: bool = False,
) -> int:
    """Reads a training config of Axolotl, LLaMA-Factory, TRL (or transformers) or torchtune into a recipe.

    Says of each field what has become of it. YAML and JSON, and a shell script that calls TRL or LLaMA-Factory.

    Args:
        config: The other tool's file.
        out: The recipe to write.
        tool: Which tool the file is for; default: recognised by its fields.
        task: Of a file of TRL's: which trainer reads it; default: as its fields tell, else sft.
        devices: On how many devices it was trained there: a step has as many examples more.
        overwrite: Replace a recipe that is there already.
    """
    if devices < 1:
        raise UsageError(f"--devices must be at least 1, not {devices}")
    if out.exists() and not overwrite:
        raise UsageError(f"{shown(out)} is there already: name another with --out, or say --overwrite")
    found = read_foreign(config, tool, devices, task)
    write_text(out, found.text())
    show(found)
    tell(
        recipe=out, tool=found.tool, fields=[note.document() for note in found.notes], empty=list(found.empty)
    )
    print(f"\nwritten: {shown(out)}")
    files = "" if found.recipe.data.files else " --data.files YOUR.jsonl"
    say_next(f"ptune doctor {shlex.quote(shown(out))}{files}")
    return 0


def show(found: Imported) -> None:
    """Prints what has become of each field."""
    print(f"{found.file}: a config of {found.tool}")
    for how, title in TITLES.items():
        notes = found.of(how)
        if not notes:
            continue
        print(f"\n{title}")
        if how != "needless":
            for note in notes:
                print(f"  {one_line(note)}")
            continue
        for why in dict.fromkeys(note.said for note in notes):
            print(f"  {', '.join(note.field for note in notes if note.said == why)} - {why}")
    if found.empty:
        print(f"\nempty there, so ptune's defaults: {', '.join(found.empty)}")
