"""ptune studio"""

from __future__ import annotations

import importlib
from pathlib import Path

from ptune.cli.parse import parse


def run(arguments: list[str]) -> int:
    return parse(studio, arguments, "studio")


def studio(
    folder: Path = Path(),
    host: str = "127.0.0.1",
    port: int = 7870,
    api_key_file: Path | None = None,
    ready_file: Path | None = None,
) -> int:
    """Opens a page on which data becomes a recipe, a recipe a run, and a run a bundle that serves.

    Whatever it does is a `ptune` command, which it shows; what it writes lies in `folder`, and the command line goes on from
    there. Jobs go on when the page or this command ends.

    Args:
        folder: Where data/, recipes/, runs/ and bundles/ are, or will be.
        host: Address of the page; the default is reachable from this machine only, any other needs --api-key-file.
        port: Port of the page; 0 takes a free one.
        api_key_file: File of keys, as of `ptune serve`: the page then asks for a key of scope admin.
        ready_file: Written with the page's URL once it answers.
    """
    code: int = importlib.import_module("ptune.studio.app").run(
        folder, host=host, port=port, api_key_file=api_key_file, ready_file=ready_file
    )
    return code
