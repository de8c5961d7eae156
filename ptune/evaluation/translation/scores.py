"""chrF and BLEU by sacrebleu, with bootstrap intervals over rows.

chrF: Popović 2015, https://aclanthology.org/W15-3049. BLEU: Papineni et al. 2002, https://aclanthology.org/P02-1040;
Post 2018, https://aclanthology.org/W18-6319.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from ptune.evaluation.classification.bootstrap import (
    Counts,
    Interval,
    Statistic,
    Values,
    intervals,
    resampled,
    sums,
)
from ptune.evaluation.classification.results import Measured

FIGURES = ("chrf", "bleu", "chrf_gain")
_TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}  # languages without spaces between words
"""By target language; sacrebleu's own choice for ja and ko needs dictionaries of hundreds of megabytes."""


def metrics(language: str | None = None) -> dict[str, Any]:
    """sacrebleu's metrics. language: the targets' language, which decides how BLEU splits words."""
    code = (language or "").partition("-")[0].casefold()
    return {"chrf": CHRF(), "bleu": BLEU(tokenize=_TOKENIZERS.get(code, "13a"))}


def statistic(
    said: Sequence[str], gold: Sequence[str], names: Sequence[str] = ("chrf",), language: str | None = None
) -> Statistic:
    """Returns the statistic of corpus figures: both metrics sum over rows before they become a figure."""
    chosen = {name: metric for name, metric in metrics(language).items() if name in names}
    rows = {
        name: np.array(metric._extract_corpus_statistics(said, [gold]), np.float64)
        for name, metric in chosen.items()
    }

    def of_counts(counts: Counts) -> dict[str, Values]:
        return {name: _figures(metric, sums(counts, rows[name])) for name, metric in chosen.items()}

    return of_counts


def _figures(metric: Any, summed: NDArray[np.float64]) -> Values:
    """[resamples, columns] sums over rows -> [resamples]."""
    return np.array([metric._compute_score_from_stats([round(n) for n in row]).score for row in summed])


def measure(
    said: Sequence[str], gold: Sequence[str], seed: int = 0, language: str | None = None
) -> tuple[Measured, dict[str, str]]:
    """Returns the corpus figures with 95 % intervals, and sacrebleu's signatures, which record its settings."""
    of_counts, values, signatures = statistic(said, gold, ("chrf", "bleu"), language), {}, {}
    for name, metric in metrics(language).items():
        values[name] = float(metric.corpus_score(said, [gold]).score)
        signatures[name] = str(metric.get_signature())
    return Measured(values, intervals(len(gold), of_counts, seed)), signatures


def gain(
    said: Sequence[str], others: Mapping[str, Sequence[str]], gold: Sequence[str], seed: int = 0
) -> tuple[float, Interval, str]:
    """Returns the chrF gain over the best of `others`, its 95 % interval (paired bootstrap), and that best one's name."""
    chrf = CHRF()
    scores = {name: float(chrf.corpus_score(texts, [gold]).score) for name, texts in others.items()}
    best = max(scores, key=scores.__getitem__)
    ours, theirs = statistic(said, gold), statistic(others[best], gold)
    apart = resampled(len(gold), lambda counts: {"chrf": ours(counts)["chrf"] - theirs(counts)["chrf"]}, seed)
    low, high = np.percentile(apart["chrf"], [2.5, 97.5])
    return float(chrf.corpus_score(said, [gold]).score) - scores[best], (float(low), float(high)), best


def of_rows(said: Sequence[str], gold: Sequence[str]) -> list[float]:
    """Each row's own chrF."""
    chrf = CHRF()
    return [float(chrf.sentence_score(one, [right]).score) for one, right in zip(said, gold, strict=True)]
