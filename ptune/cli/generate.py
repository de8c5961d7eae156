"""ptune generate BUNDLE --input FILE"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ptune.cli.engine_flags import NO_FLAGS, EngineFlags
from ptune.cli.parse import parse
from ptune.cli.result import tell
from ptune.data.read import read


def run(arguments: list[str]) -> int:
    return parse(generate, arguments, "generate")


def generate(
    bundle: Positional[Path],
    input: Path,  # noqa: A002 - the option's name
    output: Path | None = None,
    adapter: str = "base",
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    seed: int | None = None,
    engine: EngineFlags = NO_FLAGS,
) -> int:
    """Answers a JSONL file of prompts with a bundle, many at a time, without a server.

    Each row has `messages` or `prompt`, and may have its own `adapter` and `max_tokens`; it comes back with `answer` and `finish`.

    Args:
        bundle: The bundle's folder.
        input: JSONL rows with `messages` or `prompt`.
        output: Where the rows go with their answers; default: standard output.
        adapter: Adapter of rows that name none.
        max_tokens: Longest answer, in tokens.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        num_beams: From 2: the best answer that beam search finds with so many beams.
        length_penalty: Of beam search: above 1 favours long answers, below 1 short ones.
        seed: Seed of the first row; the others count up from it.
        engine: Options of the engine.
    """
    rows = read_rows(input)
    from ptune.tasks.chat.infer import load
    from ptune.tasks.chat.offline import answer_all

    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
    }
    with contextlib.closing(load(bundle, engine)) as model:
        answers = answer_all(model, rows, adapter, seed, options)
        if output is None:
            told = []
            for row in answers:
                print(json.dumps(row, ensure_ascii=False), flush=True)
                told.append(row)
            tell(rows=told)
        else:
            lines = (json.dumps(row, ensure_ascii=False) for row in answers)
            from ptune.formats.whole_write import whole_file

            with whole_file(output) as part, part.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            tell(output=output, answers=len(rows))
            print(f"{len(rows)} answers: {output}", file=sys.stderr)
    return 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads rows of prompts. Raises: DataError that names the file and the lines that cannot be used."""
    table = read(path)
    for row in table.rows:
        messages, prompt = row.value.get("messages"), row.value.get("prompt")
        if not (isinstance(messages, list) and messages) and not (isinstance(prompt, str) and prompt):
            table.problems.add(row.number, "a row needs `messages`, a list, or `prompt`, a text")
        if not isinstance(row.value.get("adapter", ""), str):
            table.problems.add(row.number, "`adapter` must be a name")
        if "max_tokens" in row.value and type(row.value["max_tokens"]) is not int:
            table.problems.add(row.number, "`max_tokens` must be a number of tokens")
    table.problems.raise_if_any(table.row_count)
    return [row.value for row in table.rows]
