"""Predictions from a bundle: finds the adapter that serves a run, and computes its logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import FormatError, UsageError
from ptune.formats.bundle import AdapterRecord, Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import sha256_of

_AT_ONCE = 128  # rows per call of the engine: images are opened only then
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Served:
    """An adapter in a bundle."""

    folder: Path
    adapter: str

    def logits(
        self, rows: Sequence[LabelledRow], tell: Callable[[int], None], threads: int | None
    ) -> list[NDArray[Any]]:
        """Computes logits; a predictor as in `ptune.evaluation.classification.outcome`."""
        from ptune.tasks.encoder.infer import load

        outputs: list[NDArray[Any]] = []
        with closing(load(self.folder, threads=threads)) as model:
            for start in range(0, len(rows), _AT_ONCE):
                part = [_opened(row.input) for row in rows[start : start + _AT_ONCE]]
                outputs += model.logits(part, self.adapter)
                tell(len(part))
        return outputs


def served_as(run: Run, bundle: Path | None, adapter: str | None) -> Served | None:
    """Finds the run's adapter in `bundle`, else in the bundle that `ptune export` writes by default, if it exists.

    Raises: UsageError if the adapter in `bundle` is not the run's.
    """
    place = bundle or Path("bundles") / run.folder.resolve().name
    if bundle is None and not (place / "manifest.json").is_file():
        return None
    opened = Bundle.open(place)
    name = adapter or run.folder.resolve().name
    if adapter is None and name not in opened.manifest.adapters and len(opened.manifest.adapters) == 1:
        (name,) = opened.manifest.adapters
    if bundle is None and name not in opened.manifest.adapters:
        return None
    if _is_of(opened.adapter(name), run):
        return Served(place, name)
    if bundle is None:
        return None  # perhaps an older export; the user did not name it
    raise UsageError(
        f"the adapter {name!r} in {place} is not what {run.folder} has trained: export the run again, or name another "
        "with --adapter"
    )


def the_adapter(bundle: Bundle, name: str | None) -> AdapterRecord:
    """The record of the adapter to evaluate. Raises: UsageError if there are several and none is named."""
    names = list(bundle.manifest.adapters)
    if name is None and len(names) != 1:
        known = ", ".join(names) or "none"
        raise UsageError(f"{bundle.folder} has the adapters {known}: say which one with --adapter NAME")
    record = bundle.adapter(name or names[0])
    if not record.problem and record.translation is None:
        raise FormatError(
            f"the adapter {record.name!r} of {bundle.folder} is judged with its run: its task is {record.task}"
        )
    return record


def _is_of(record: AdapterRecord, run: Run) -> bool:
    """Whether the adapter's weights are the run's, byte for byte; unknown, so True, for a fully trained model."""
    own = run.adapter_path / _WEIGHTS
    return not own.is_file() or record.files.get(_WEIGHTS) == sha256_of(own)


def _opened(given: Any) -> Any:
    """The input as the model takes it: images are opened, all else is unchanged."""
    return given if isinstance(given, str | tuple) else given.open()
