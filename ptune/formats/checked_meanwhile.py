"""Weights are hashed in a thread while their graph is opened: both take seconds where a model has billions of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ptune.formats.bundle import Bundle

WEIGHTS = ".data"  # how the names of files of weights end


@contextmanager
def checked_meanwhile(bundle: Bundle, files: Mapping[str, str]) -> Iterator[Future[None]]:
    """Checks a bundle's files (path inside it -> SHA-256): those with weights while the block runs, the others before.

    It yields what waits for that check. Where a file is damaged the block ends with that error, whatever else it ended with.
    Raises: FormatError.
    """
    weights = {name: expected for name, expected in files.items() if name.endswith(WEIGHTS)}
    bundle.check_files({name: expected for name, expected in files.items() if name not in weights})
    with ThreadPoolExecutor(1, "ptune-check") as threads:
        checked = threads.submit(bundle.check_files, weights)
        try:
            yield checked
        finally:
            checked.result()
