"""Do the example configs of other tools become recipes?   python -m benchmarks.imports --axolotl DIR --llamafactory DIR --torchtune DIR --trl DIR   (a minute)

Each DIR is a checkout of the tool: git clone https://github.com/axolotl-ai-cloud/axolotl, hiyouga/LLaMA-Factory, pytorch/torchtune,
huggingface/trl. Every YAML and shell script among its examples is read as `ptune import FILE` reads it; TRL, which has few such
files, shows its commands in the documentation and in its scripts' docstrings, and these are read, too. Nothing is trained. A
file that makes no recipe is counted with the sentence that `ptune import` says. Of fields that are not taken over the most frequent
ones are listed with the reason that is given; a field that ptune does not know at all is `unknown`.

Writes results/imports.json.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.sides import write
from ptune.errors import PtuneError
from ptune.foreign.read_foreign import TITLES, read_foreign
from ptune.foreign.tools import Tool

SHOWN = 25
EXAMPLES: dict[Tool, tuple[str, ...]] = {
    "axolotl": ("examples/**/*.yaml", "examples/**/*.yml"),
    "llamafactory": ("examples/**/*.yaml", "examples/**/*.sh"),
    "torchtune": ("recipes/configs/**/*.yaml",),
    "trl": ("examples/cli_configs/*.yaml",),
}
OTHERS = re.compile(
    r"/(accelerate|deepspeed|merge_lora|inference|cloud)/|multi_tokens/|init\.sh|expand\.sh|train\.sh"
)
"""Of examples: files that configure something else than a training, or start one that a config beside them describes."""
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ +)*(?:accelerate launch|python|trl) (?:.*\\\n)*.*$", re.MULTILINE)
FENCED = re.compile(r"```(?:bash|shell)?\n(.*?)```", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for tool in EXAMPLES:
        parser.add_argument(f"--{tool}", type=Path, required=True, metavar="DIR")
    asked = vars(parser.parse_args())
    rows = {tool: _row(tool, asked[tool]) for tool in EXAMPLES}
    for tool, row in rows.items():
        print(
            f"{tool}: {row['converted']} of {row['files']} files, unknown fields {row['unknown']}: {row['fields']}"
        )
    write("imports", {"rows": rows}, packages=("ptune",))


def _row(tool: Tool, checkout: Path) -> dict[str, Any]:
    fields: Counter[str] = Counter()
    refused: dict[str, str] = {}
    left: Counter[tuple[str, str]] = Counter()
    files = converted = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, file in _examples(tool, checkout, Path(folder)):
            files += 1
            try:
                found = read_foreign(file, tool)
            except PtuneError as error:
                refused[name] = str(error).replace(str(file), name)
                continue
            converted += 1
            fields.update(note.how for note in found.notes if note.field)
            left.update((note.field, note.said) for note in found.of("left"))
    unknown = sum(count for (_, said), count in left.items() if "does not know this field" in said)
    return {
        "commit": _commit(checkout),
        "files": files,
        "converted": converted,
        "refused": refused,
        "fields": {how: fields[how] for how in TITLES},
        "unknown": unknown,
        "not_taken": [
            {"field": name, "files": count, "why": why} for (name, why), count in left.most_common(SHOWN)
        ],
    }


def _examples(tool: Tool, checkout: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of each example. folder: for commands out of the documentation."""
    for pattern in EXAMPLES[tool]:
        for file in sorted(checkout.glob(pattern)):
            name = str(file.relative_to(checkout))
            if not OTHERS.search(f"/{name}"):
                yield name, file
    if tool == "trl":
        yield from _commands(checkout, folder)


def _commands(checkout: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The commands of trainings in TRL's scripts and documentation, as scripts."""
    seen = set[str]()
    for page in sorted(
        [
            *checkout.glob("trl/scripts/*.py"),
            *checkout.glob("examples/scripts/*.py"),
            *checkout.glob("docs/source/*.md"),
        ]
    ):
        text = page.read_text(encoding="utf-8")
        blocks = (
            FENCED.findall(text) if page.suffix == ".md" else [text.partition('"""\n')[2].partition('"""')[0]]
        )
        for command in (found for block in blocks for found in COMMAND.findall(block)):
            if "--model_name_or_path" not in command or command in seen or "uv run" in command:
                continue
            seen.add(command)
            name = f"{page.relative_to(checkout)}#{len(seen)}"
            file = folder / f"{len(seen)}.sh"
            file.write_text(command + "\n", encoding="utf-8")
            yield name, file


def _commit(checkout: Path) -> str | None:
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
