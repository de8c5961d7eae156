"""ptune.evaluate: a run or a bundle, measured on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptune.api.rows import Source, files_of
from ptune.errors import UsageError
from ptune.evaluation.require import missed, parsed
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run


class Evaluation(dict[str, Any]):
    """evaluation.json, as a dict, with the figures that matter most as attributes."""

    @property
    def figures(self) -> dict[str, float]:
        """Name -> value of what was trained: of chat `loss`, `perplexity`, `token_accuracy`; else the task's own."""
        if "after" in self:
            return {name: value for name, value in self["after"].items() if isinstance(value, float)}
        first = next(iter(self["sides"].values()))
        return dict(first["metrics"])

    @property
    def missed(self) -> list[str]:
        """A sentence for each requirement that is not kept."""
        return missed(self)

    @property
    def passed(self) -> bool:
        """Whether every requirement is kept."""
        return not self.missed

    def __repr__(self) -> str:
        """E.g. Evaluation(60 rows of test: accuracy 0.912, f1 0.908)."""
        headline = self.get("headline", list(self.figures))
        shown = [f"{name} {self.figures[name]:.4g}" for name in headline if name in self.figures]
        return f"Evaluation({self['examples']} rows of {self['split']}: {', '.join(shown)})"


def evaluate(
    source: Run | Bundle | str | Path,
    *,
    data: Source = None,
    bundle: Bundle | str | Path | None = None,
    adapter: str | None = None,
    require: str | Sequence[str] = (),
    out: str | Path | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Measures a run on its held-out data, or an adapter of a bundle on data of yours; writes report.html, too.

    source: a run or a bundle, or its folder.
    data: what to judge by, as `ptune.train` takes it; default: the run's test files, or what it was validated on.
        A chat run is always measured on its own held-out data.
    bundle: of a run: the bundle that it was exported to; default: bundles/NAME where that is there.
    adapter: of a bundle: which one; default: the one of the run's name, or the only one.
    require: what must be reached, as in "accuracy>=0.85"; what is missed is in `Evaluation.missed`, and such a run cannot
        be exported.
    out: of a bundle: the folder to write to; default: evaluations/BUNDLE-ADAPTER. threads: of onnxruntime.

    Raises: FormatError where the run is not finished; UsageError where an option does not fit; DataError.
    """
    from ptune.cli.evaluate import measured

    folder = source.folder if isinstance(source, Run | Bundle) else Path(source)
    is_bundle = (folder / "manifest.json").is_file()
    if is_bundle and data is not None and out is None and not isinstance(data, str | Path):
        out = Path("evaluations") / folder.resolve().name
    place = Path(out) / "rows" if out is not None else Run(folder).rows_path
    if data is not None and not (folder / "run.json").is_file() and not is_bundle:
        raise UsageError(f"{folder} is neither a run nor a bundle")
    found, _, _ = measured(
        folder,
        data=files_of(data, place / "evaluated.jsonl", "data"),
        bundle=bundle.folder if isinstance(bundle, Bundle) else None if bundle is None else Path(bundle),
        adapter=adapter,
        requirements=parsed([require] if isinstance(require, str) else require),
        out=None if out is None else Path(out),
        threads=threads,
    )
    return Evaluation(found)
