"""Whether a model is better than its baselines: if not, `ptune evaluate` says so, and `ptune export` asks for --anyway. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.errors import PtuneError
from ptune.evaluation.classification.results import LOWER_IS_BETTER, OF_A_HUNDRED, PLAIN_NUMBERS, shown, title
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json

_NOT_SIMPLE = {"item-kNN"}  # a recommender contains it, and may rightly equal it


def judged(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The contents of evaluation.json with `no_better`: a sentence, or "" if the model beats every simple baseline.

    The first headline figure counts; of a chat model the loss (of one that was rewarded, the reward), and its base is the
    baseline; of pairs of answers, and of judged ones, how many are ordered rightly, and chance is.
    """
    return {**evaluation, "no_better": _sentence(evaluation)}


def _sentence(evaluation: Mapping[str, Any]) -> str:
    if "pairs" in evaluation:
        preferred = evaluation["pairs"]["tuned"]["preferred"]["value"]
        return (
            ""
            if preferred > 0.5
            else f"no better than chance: the better answer gained more than the worse in {preferred:.1%} of pairs"
        )
    if "rewards" in evaluation:
        before, after = (evaluation["rewards"][side]["reward"]["value"] for side in ("base", "tuned"))
        worth = f"its greedy answers are worth {after:.3g} on average, and the base's {before:.3g}"
        return "" if after > before else f"no better than the base model: {worth}"
    if "judged" in evaluation and "told_apart" in evaluation["judged"]["tuned"]:
        apart = evaluation["judged"]["tuned"]["told_apart"]["value"]
        told = f"no better than chance: a desirable answer gained more than an undesirable one in {apart:.1%} of cases"
        return "" if apart > 0.5 else told
    if "before" in evaluation:
        name, own = "loss", evaluation["after"]["loss"]
        others = {"the base model": evaluation["before"]["loss"]}
    else:
        name = next(iter(evaluation["headline"]), "")
        own = evaluation["metrics"].get(name)
        sides = {key: side["metrics"] for key, side in evaluation["baselines"].items()}
        others = {key: side[name] for key, side in sides.items() if name in side and key not in _NOT_SIMPLE}
    if own is None or not others:
        return ""
    sign = -1 if name in LOWER_IS_BETTER else 1
    best, value = max(others.items(), key=lambda one: sign * one[1])
    if sign * own > sign * value or _perfect(name, own):
        return ""
    return f"no better than {best}: {title(name)} {shown(name, own)}, and {best} has {shown(name, value)}{_one_class(evaluation)}"


def _perfect(name: str, own: float) -> bool:
    """Whether no model could have a better figure: of a few easy rows a baseline has it, too."""
    return name not in LOWER_IS_BETTER | PLAIN_NUMBERS and own >= (100 if name in OF_A_HUNDRED else 1)


def _one_class(evaluation: Mapping[str, Any]) -> str:
    """A clause for a classifier that gives every row the same label."""
    if evaluation.get("problem") != "single" or "confusion" not in evaluation["details"]:
        return ""
    columns = [sum(column) for column in zip(*evaluation["details"]["confusion"], strict=True)]
    given = [label for label, count in zip(evaluation["labels"], columns, strict=False) if count]
    return f"; every row is given {given[0]!r}" if len(given) == 1 and len(evaluation["labels"]) > 1 else ""


def refuse_no_better(run: Run) -> None:
    """Raises: PtuneError if the run was evaluated and is no better than a baseline."""
    if not run.evaluation_path.is_file():
        return
    if told := read_json(run.evaluation_path).get("no_better"):
        raise PtuneError(
            f"{run.folder} is {told}. Train it with another train.lr or more data, or export it --anyway"
            " (in Python: anyway=True)"
        )
