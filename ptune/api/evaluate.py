"""ptune.evaluate: measures a run or a bundle on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.api.rows import Source, files_of
from ptune.errors import UsageError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import missed, parsed
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run


class Evaluation(dict[str, Any]):
    """evaluation.json as a dict, with the main figures as attributes."""

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the trained model by name: `loss`, `perplexity`, `token_accuracy` for chat, else the task's own."""
        if "after" in self:
            return {name: value for name, value in self["after"].items() if isinstance(value, float)}
        first = next(iter(self["sides"].values()))
        return dict(first["metrics"])

    @property
    def missed(self) -> list[str]:
        """One sentence for each requirement that is not met."""
        return missed(self)

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return not self.missed

    def __repr__(self) -> str:
        """The result in short: Evaluation(60 rows of test: accuracy 0.912, f1 0.908)."""
        headline = self.get("headline", list(self.figures))
        shown = [f"{name} {self.figures[name]:.4g}" for name in headline if name in self.figures]
        return f"Evaluation({self['examples']} rows of {self['split']}: {', '.join(shown)})"


def evaluate(
    source: Run | Bundle | str | Path,
    *,
    data: Source = None,
    columns: Mapping[str, str] | None = None,
    bundle: Bundle | str | Path | None = None,
    adapter: str | None = None,
    require: str | Sequence[str] = (),
    reward_model: Bundle | str | Path | None = None,
    answers: int | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Measures a run on its held-out data, or an adapter of a bundle on your data. Also writes report.html.

    source: a run or a bundle, or its folder.
    data: the data to measure on, as in `ptune.train`; default: the run's test files, or its validation data.
        A chat run is always measured on its own held-out data.
    columns: what `data` calls the task's columns, {"text": "message"}; default: as the run's recipe says.
    bundle: the bundle that a run was exported to; default: bundles/NAME if it exists.
    adapter: the adapter of a bundle; default: the one with the run's name, or the only one.
    require: requirements such as "accuracy>=0.85". Those that are not met are in `Evaluation.missed`, and the run cannot
        be exported.
    reward_model: of a chat run: a bundle with a reward model, which compares the answers to all held-out prompts.
    answers: of a chat run: how many answers of both models it keeps side by side; default: as its recipe says.
    out: the folder to write a bundle's evaluation to; default: evaluations/BUNDLE-ADAPTER. threads: of onnxruntime.

    Raises: FormatError if the run is not finished; UsageError if an option does not fit; DataError.
    """
    from ptune.cli.evaluate import measured

    folder = source.folder if isinstance(source, Run | Bundle) else Path(source)
    is_bundle = (folder / "manifest.json").is_file()
    if is_bundle and data is not None and out is None and not isinstance(data, str | Path):
        out = Path("evaluations") / folder.resolve().name
    place = Path(out) / "rows" if out is not None else Run(folder).rows_path
    if data is not None and not (folder / "run.json").is_file() and not is_bundle:
        raise UsageError(f"{folder} is neither a run nor a bundle")
    asked = EvaluationOptions(
        data=files_of(data, place / "evaluated.jsonl", "data"),
        columns=columns or {},
        bundle=_folder(bundle),
        adapter=adapter,
        require=parsed([require] if isinstance(require, str) else require),
        reward_model=_folder(reward_model),
        answers=answers,
        threads=threads,
    )
    evaluation, _, _ = measured(folder, asked, None if out is None else Path(out))
    return Evaluation(evaluation)


def _folder(bundle: Bundle | str | Path | None) -> Path | None:
    return bundle.folder if isinstance(bundle, Bundle) else None if bundle is None else Path(bundle)
