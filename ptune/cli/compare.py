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
    weights: bool = False,
) -> int:
    """Puts evaluated runs into one table and tests whether they differ from the first by more than luck.

    They must have been judged by the same rows; if not, what differs is named. Accuracies are tested by McNemar's exact
    test, F1 and errors by the paired bootstrap. Chat runs are compared by their held-out loss, without a test.

    Args:
        runs: Folders of runs that `ptune evaluate` has measured; the first is what the others are compared with.
        html: Write the table as a page, too.
        seed: Of the bootstrap.
        weights: Of two adapters (runs or PEFT folders), evaluated or not: how far their updates of each layer are apart, the
            most different first.
    """
    if weights:
        return _compare_weights(runs, html)
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


def _compare_weights(adapters: tuple[Path, ...], html: Path | None) -> int:
    """Shows how far two adapters' updates are apart."""
    from rich.console import Console

    from ptune.errors import UsageError
    from ptune.evaluation.update_difference import difference
    from ptune.evaluation.update_table import of_all, table

    if len(adapters) != 2 or html is not None:
        raise UsageError("compare --weights takes two adapters and no --html: ptune compare A B --weights")
    found = difference(*adapters)
    tell(difference=found)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table(found))
    print(of_all(found))
    return 0
