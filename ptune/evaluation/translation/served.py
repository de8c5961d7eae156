"""Translations from a bundle; evaluates one of its adapters without torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ptune.codecs.chat import ChatCodec
from ptune.config.translation import Translation
from ptune.errors import PtuneError
from ptune.evaluation.classification.evaluation import Pages
from ptune.evaluation.classification.onnx_side import Served, served_as, the_adapter
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import refuse_unknown
from ptune.evaluation.translation.figures import COPY, figures, write
from ptune.evaluation.translation.pairs import of_files
from ptune.evaluation.translation.scores import FIGURES
from ptune.formats.bundle import BASE, Bundle
from ptune.formats.run import Run
from ptune.kinds import SEQ2SEQ, of_task
from ptune.tasks.chat.infer import load
from ptune.tasks.chat.offline import answer_all
from ptune.tasks.translation import seq2seq_infer
from ptune.tasks.translation.infer import messages_of, most_tokens


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates one adapter of a bundle on `data`, without its run; writes into `out`.

    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    refuse_unknown(asked.require, FIGURES)
    task = Translation.of_description(record.translation or {})
    pairs = of_files(asked.data, task.with_columns(asked.columns))
    if of_task(bundle.manifest.task) is SEQ2SEQ:
        with closing(seq2seq_infer.load(folder, threads=asked.threads)) as model:
            own = {"ONNX": model.translate(pairs.sources, record.name)}
    else:
        most = limits(ChatCodec.open(bundle.codec_path), pairs.sources)
        own = {"ONNX": by_bundle(folder, record.name, pairs.sources, most, asked.threads)}
    baselines = {COPY: pairs.sources}
    evaluation = figures(pairs, own, baselines, asked.require, 0, task.target_language)
    write(out, evaluation, pairs, own, baselines, Pages.of_adapter(bundle, record.name))
    return evaluation


def served_translator(run: Run, asked: EvaluationOptions) -> Served | None:
    """Finds the run in a bundle. A given bundle without adapters, as of a merged or fully trained run, is trusted to be the run's.

    Raises: as `served_as`.
    """
    if asked.bundle is not None and not Bundle.open(asked.bundle).manifest.adapters:
        return Served(asked.bundle, BASE)
    return served_as(run, asked.bundle, asked.adapter)


def limits(codec: ChatCodec, sources: Sequence[str]) -> list[int]:
    """Token limit of each translation, as in the server."""
    return [most_tokens(codec, source) for source in sources]


def by_bundle(
    folder: Path, adapter: str, sources: Sequence[str], limits: Sequence[int], threads: int | None
) -> list[str]:
    """Translates texts with a bundle's adapter. Raises: PtuneError if it fails on one."""
    rows = [
        {"messages": messages_of(source), "max_tokens": limit}
        for source, limit in zip(sources, limits, strict=True)
    ]
    with closing(load(folder, threads=threads)) as model:
        answers = list(answer_all(model, rows, adapter, None, {"temperature": 0.0}))
    for row, source in zip(answers, sources, strict=True):
        if row["finish"] == "error":
            raise PtuneError(f"{folder} cannot translate {source[:60]!r}: {row['answer']}")
    return [row["answer"].strip() for row in answers]
