"""ptune generate BUNDLE --input FILE"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ptune.cli.engine_flags import NO_FLAGS, EngineFlags
from ptune.cli.parse import parse
from ptune.cli.ray_address import RayAddress
from ptune.cli.result import tell
from ptune.data.problems import Problems
from ptune.data.read import DataFile, open_file, read
from ptune.data.readers.rows import Row
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError


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
    ray: RayAddress = None,
    workers: int | None = None,
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
        ray: Answer on Ray: bare on this machine, else on the cluster at this address (auto: the one that runs here).
        workers: With --ray: processes with an engine; default: one for each machine.
        engine: Options of the engine.
    """
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
    }
    if ray is not None or workers is not None:
        return _on_ray(ray, workers, bundle, input, output, engine, adapter, seed, options)
    rows = read_rows(input)
    from ptune.tasks.chat.infer import load
    from ptune.tasks.chat.offline import answer_all

    with contextlib.closing(load(bundle, engine)) as model:
        _write(answer_all(model, rows, adapter, seed, options), output, len(rows))
    return 0


def _write(answers: Iterator[dict[str, Any]], output: Path | None, count: int) -> None:
    """Writes the rows as they come, or whole into a file."""
    from ptune.formats.whole_write import whole_file
    from ptune.tasks.chat.offline import as_line

    if output is None:
        told = []
        for row in answers:
            print(as_line(row), flush=True)
            told.append(row)
        tell(rows=told)
        return
    with whole_file(output) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(f"{as_line(row)}\n" for row in answers)
    tell(output=output, answers=count)
    print(f"{count} answers: {output}", file=sys.stderr)


def _on_ray(
    address: str | None,
    workers: int | None,
    bundle: Path,
    input: Path,  # noqa: A002 - as the option
    output: Path | None,
    engine: EngineOptions,
    adapter: str,
    seed: int | None,
    options: dict[str, Any],
) -> int:
    """Answers on a Ray cluster. Exit code 130 where it was interrupted and can go on."""
    if address is None:
        raise UsageError("--workers is for --ray")
    if output is None:
        raise UsageError(
            "--ray needs --output: what is answered is kept beside it, so that the command can go on"
        )
    engine.check()
    from ptune.cluster.answers import Answering, answer_on
    from ptune.cluster.connection import connected, share
    from ptune.cluster.part_file import part_file

    file = open_file(input)
    total = _counted(file)
    job = Answering.of(bundle, engine, adapter, seed, options)
    with part_file(output, job.key(file.sha256)) as part:
        try:
            if part.lines < total:
                with connected(address):
                    given = share(workers)
                    job = replace(job, engine=replace(engine, threads=engine.threads or given.cpus))
                    rows = (row.value for row in file.rows(file.problems()))
                    answer_on(job, rows, total, given, part)
        except KeyboardInterrupt:
            print(
                f"interrupted: {part.lines} of {total} rows are answered; the same command goes on",
                file=sys.stderr,
            )
            return 130
        part.complete()
    print(f"{total} answers: {output}", file=sys.stderr)
    return 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads rows of prompts. Raises: DataError that names the file and the lines that cannot be used."""
    table = read(path)
    for row in table.rows:
        _check(row, table.problems)
    table.problems.raise_if_any(table.row_count)
    return [row.value for row in table.rows]


def _counted(file: DataFile) -> int:
    """How many rows of prompts a file has; none is kept. Raises: DataError as `read_rows`."""
    problems, total, unusable = file.problems(), 0, 0
    for total, row in enumerate(file.rows(problems), 1):  # noqa: B007 - the last one counts
        before = problems.count
        _check(row, problems)
        unusable += problems.count - before
    problems.raise_if_any(total + problems.count - unusable)
    return total


def _check(row: Row, problems: Problems) -> None:
    messages, prompt = row.value.get("messages"), row.value.get("prompt")
    if not (isinstance(messages, list) and messages) and not (isinstance(prompt, str) and prompt):
        problems.add(row.number, "a row needs `messages`, a list, or `prompt`, a text")
    if not isinstance(row.value.get("adapter", ""), str):
        problems.add(row.number, "`adapter` must be a name")
    if "max_tokens" in row.value and type(row.value["max_tokens"]) is not int:
        problems.add(row.number, "`max_tokens` must be a number of tokens")
