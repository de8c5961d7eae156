"""What an evaluation found, as tables: figures with intervals of each side, slices, the worst errors. Of any task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.evaluation import judged_titles, kept_step, pair_titles
from ptune.evaluation.between import with_interval
from ptune.evaluation.classification.results import LOWER_IS_BETTER, shown, title
from ptune.evaluation.reinforcement import titles as reward_titles
from ptune.formats.run import Run
from ptune.studio.judge.verdict import verdict
from ptune.studio.judge.worst import worst
from ptune.studio.sheet import Cell, Content, note, sheet
from ptune.studio.ship.proof import ANYWAY, NOT_MEANT

_CHAT = (("loss", "loss a token"), ("perplexity", "perplexity"), ("token_accuracy", "token accuracy"))
_TOLD = {"base": "before", "tuned": "after"}
_SIDES = {"torch": "your model (torch)", "commonest label": "most common label"}


def tables(evaluation: Mapping[str, Any], run: Run, home: Path) -> str:
    """All there is to see of a run's evaluation.json, as HTML. home: the folder from which it names its data."""
    parts = [
        note(verdict(evaluation)),
        _no_better(evaluation.get("no_better") or ""),
        *(_requirement(one) for one in evaluation.get("requirements", [])),
        figures(evaluation),
        note(kept_step.told(evaluation)) if "chose_step" in evaluation else "",
        slices(evaluation.get("slices") or []),
        worst(evaluation, run, home),
    ]
    return "\n".join(part for part in parts if part)


def figures(evaluation: Mapping[str, Any]) -> str:
    """The figures of every side, with the intervals that there are."""
    counted = f"{evaluation['examples']} held-out rows ({evaluation['split']})"
    if "sides" in evaluation:
        return _sides(f"{evaluation['task']}, {counted}, 95 % intervals", evaluation)
    found = [*_before_and_after(counted, evaluation)]
    return "\n".join(found)


def _before_and_after(counted: str, evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Tables of a model that generates text: what its base did, and what it does."""
    if "before" in evaluation:
        yield _chat(counted, evaluation)
    for key, titles_of, of_side in (
        ("pairs", pair_titles.titles, pair_titles.cell),
        ("judged", lambda _: judged_titles.TITLES, judged_titles.cell),
    ):
        if key in evaluation:
            rows: list[tuple[Content, ...]] = [
                (text, *(_split(of_side(name, evaluation[key][side])) for side in _TOLD))
                for name, text in titles_of(evaluation[key]).items()
            ]
            yield sheet("Preferences, 95 % intervals", ("", *_TOLD.values()), rows)
    if "rewards" in evaluation:
        rewards = evaluation["rewards"]
        lines: list[tuple[Content, ...]] = [
            (
                reward_titles.title(name),
                *(_split(reward_titles.cell(rewards[side].get(name))) for side in (*_TOLD, "gain")),
            )
            for name in rewards["tuned"]
        ]
        yield sheet(f"Rewards, {counted}, 95 % intervals", ("", *_TOLD.values(), "gain"), lines)
    if "reward_model" in evaluation:
        one = evaluation["reward_model"]
        yield note(
            f"The reward model {one['adapter']} prefers the answer after training to the one before for "
            f"{with_interval(one['win_rate'], '{:.1%}'.format)} of {one['prompts']} prompts."
        )


def _chat(counted: str, evaluation: Mapping[str, Any]) -> str:
    sides = {"before": evaluation["before"]}
    if "in_context" in evaluation:
        count = evaluation["in_context"]["examples"]
        sides[f"before, {count} examples in the prompt"] = evaluation["in_context"]
    sides["after"] = evaluation["after"]
    rows: list[tuple[Content, ...]] = []
    for name, text in _CHAT:
        values = [side.get(name) for side in sides.values()]
        rows.append((text, *_marked(name, values, [None] * len(values))))
    return sheet(counted, ("", *sides), rows)


def _sides(caption: str, evaluation: Mapping[str, Any]) -> str:
    sides = {**evaluation["sides"], **evaluation.get("baselines", {})}
    names = dict.fromkeys(name for side in sides.values() for name in side["metrics"])
    rows: dict[str, tuple[Content, ...]] = {}
    for name in names:
        values = [side["metrics"].get(name) for side in sides.values()]
        between = [side["intervals"].get(name) for side in sides.values()]
        rows[name] = (title(name), *_marked(name, values, between))
    heads = ("", *(_SIDES.get(side, side) for side in sides))
    main = [name for name in evaluation.get("headline") or names if name in rows]
    others = [row for name, row in rows.items() if name not in main]
    told = note("✓: the best in its row.") if any(" ✓" in str(rows[name]) for name in main) else ""
    return (
        sheet(caption, heads, [rows[name] for name in main])
        + told
        + (_folded(heads, others) if others else "")
    )


def _folded(heads: Sequence[str], rows: Sequence[tuple[Content, ...]]) -> str:
    """The figures that say the same again, or more than most ask."""
    count = f"{len(rows)} more figures" if len(rows) > 1 else "One more figure"
    return f"<details><summary>{count}</summary>{sheet(count, heads, rows)}</details>"


def _no_better(told: str) -> str:
    """The verdict, and what the export will make of it."""
    if not told:
        return ""
    for own, plain in _SIDES.items():
        told = told.replace(own, plain)
    refusal = f"The export will refuse it, unless you tick “{ANYWAY}” in the tab Ship."
    return note(f"This model is {told}. {refusal} {NOT_MEANT}", "bad")


def _marked(
    name: str, values: Sequence[float | None], between: Sequence[Sequence[float] | None]
) -> Iterator[Cell]:
    """A row's figures with their intervals; the best is marked, but for calibration, which a constant guess wins."""
    known = [value for value in values if value is not None]
    best = None
    if len({*known}) > 1 and name != "ece":
        best = min(known) if name in LOWER_IS_BETTER else max(known)
    for value, interval in zip(values, between, strict=True):
        if value is None:
            yield Cell("–")
            continue
        told = f"{shown(name, interval[0])} to {shown(name, interval[1])}" if interval else ""
        yield Cell(
            f"{shown(name, value)}{' ✓' if value == best else ''}", told, "good" if value == best else ""
        )


def _split(cell: str) -> Cell:
    """ "0.71 [0.5, 0.9]" or "0.71 (0.5 to 0.9)" as a figure with its interval below."""
    for opening, closing in (("[", "]"), ("(", ")")):
        value, found, rest = cell.partition(f" {opening}")
        if found:
            return Cell(value, rest.removesuffix(closing).replace(", ", " to "))
    return Cell(cell)


def slices(found: Sequence[Mapping[str, Any]]) -> str:
    """The main figure of parts of the rows: by length, by label, by other columns."""
    if not found:
        return ""
    metric = str(found[0]["metric"])
    rows: list[tuple[Content, ...]] = []
    for part in found:
        between = " to ".join(shown(metric, end) for end in part["interval"] or ())
        figure = Cell(shown(metric, part["figure"]), between)
        rows.append((str(part["column"]), str(part["value"]), str(part["rows"]), figure))
    return sheet("Slices: where it is weak", ("column", "value", "rows", title(metric)), rows, words=(0, 1))


def _requirement(one: Mapping[str, Any]) -> str:
    from ptune.evaluation.require import sentence

    return note(sentence(dict(one)), "good" if one["passed"] else "bad")
