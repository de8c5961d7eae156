"""ptune compare RUN RUN…"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ptune.cli.parse import parse, shown
from ptune.cli.result import tell


def run(arguments: list[str]) -> int:
    return parse(compare, arguments, "compare")


def compare(
    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN RUN…")],
    html: Path | None = None,
    seed: int = 0,
) -> int:
    """Puts evaluated runs into one table and tests whether they differ from the first by more than luck.

    They must have been judged by the same rows; if not, what differs is named. Accuracies are tested by McNemar's exact
    test, F1 and errors by the paired bootstrap. Chat runs are compared by their held-out loss, without a test.

    Args:
        runs: Folders of runs that `ptune evaluate` has measured; the first is what the others are compared with.
        html: Write the table as a page, too.
        seed: Of the bootstrap.
    """
    from rich.console import Console

    from ptune.evaluation import compare_table
    from ptune.evaluation.compare import compare as compare_runs
    from ptune.formats.whole_write import write_text

    found = compare_runs(runs, seed)
    tell(comparison=found)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(
        compare_table.table(found)
    )
    for sentence in compare_table.tests(found):
        print(sentence)
    if html is not None:
        write_text(html, compare_table.html(found))
        print(f"page: {shown(html)}")
    return 0
