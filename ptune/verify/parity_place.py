"""Where the user's word finds a parity.json: in an adapter's folder, a run or a bundle."""

from __future__ import annotations

from pathlib import Path

from ptune.errors import FormatError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.parity_json import FILE, WEIGHTS, Parity, read_parity
from ptune.formats.run import Run
from ptune.formats.whole_write import sha256_of


def is_bundle(place: Path) -> bool:
    return (place / "manifest.json").is_file()


def is_run(place: Path) -> bool:
    return (place / "run.json").is_file()


def located(place: Path, adapter: str | None = None) -> tuple[Parity, str | None]:
    """The file that `place` has, and the name under which a bundle serves its adapter.

    adapter: which one of a bundle's; it may be left out where there is one.
    Raises: FormatError where there is none, or it is damaged or of other weights than lie beside it; UsageError for a name
        that must be said, or says nothing.
    """
    if is_bundle(place):
        return _of_bundle(Bundle.open(place), adapter)
    if adapter is not None:
        raise UsageError(f"--adapter {adapter}: {place} is no bundle, so it has one adapter at most")
    return _of_folder(Run.open(place).adapter_path if is_run(place) else place), None


def _of_bundle(bundle: Bundle, adapter: str | None) -> tuple[Parity, str]:
    names = [*bundle.manifest.adapters]
    if adapter is None and len(names) != 1:
        shown = ", ".join(names) or "none"
        raise UsageError(f"{bundle.folder} has {len(names)} adapters ({shown}): say which with --adapter")
    name = names[0] if adapter is None else adapter
    record = bundle.adapter(name)
    bundle.check_files(
        {f"adapters/{name}/{file}": sha for file, sha in record.files.items() if file in (FILE, WEIGHTS)}
    )
    return _of_folder(bundle.adapter_path(name)), name


def _of_folder(folder: Path) -> Parity:
    if not (folder / FILE).is_file():
        raise FormatError(
            f"{folder} has no {FILE}: `ptune export RUN` writes it into a run's adapter, `ptune add` into a bundle's"
        )
    parity, weights = read_parity(folder), folder / WEIGHTS
    if weights.is_file() and sha256_of(weights) != parity.adapter.sha256:
        raise FormatError(
            f"{folder / FILE} is of other weights than {weights}: remove it and export the run again"
        )
    return parity
