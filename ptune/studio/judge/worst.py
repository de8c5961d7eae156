"""The worst errors of an evaluation, of every problem that has a prediction a row, with what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ptune.formats.run import Run
from ptune.formats.whole_write import read_json_lines
from ptune.studio.judge.texts import LONGEST, texts_of
from ptune.studio.judge.thumbnails import thumbnails
from ptune.studio.sheet import Cell, Content, note, sheet, shortened

WORST = 10  # rows
Line: TypeAlias = Mapping[str, Any]
"""A line of predictions.jsonl."""


def worst(evaluation: Mapping[str, Any], run: Run, home: Path) -> str:
    """The worst rows as HTML; empty for what has no predictions. home: the folder from which data files are named."""
    predictions = run.folder / "predictions.jsonl"
    told = _TOLD.get(str(evaluation.get("problem")))
    if told is None or not predictions.is_file():
        return ""
    lines = read_json_lines(predictions)
    badness, title, heads, words, row = told
    wrong = [line for line in lines if badness(line) > 0]
    if not wrong:
        return note(f"The model is right on all {len(lines)} held-out rows.", "good")
    wrong.sort(key=lambda line: -badness(line))
    shown = wrong[:WORST]
    caption = title.format(wrong=len(wrong), rows=len(lines))
    if "image" in shown[0]:
        below = [f"{line['gold']}, taken for {line['predicted']}, {_sure(line):.0%}" for line in shown]
        return f"<h3>{caption}</h3>{thumbnails(shown, below, home)}"
    known = {str(file["path"]): str(file["sha256"]) for file in evaluation.get("files", [])}
    texts = texts_of([str(line["place"]) for line in shown], run, home, known) if "scores" in shown[0] else {}
    return sheet(caption, heads, [row(line, texts) for line in shown], words=words)


def _sure(line: Line) -> float:
    """Confidence in a label, or the lowest in several labels or tags."""
    scores = [float(score) for score in line["scores"]]
    if isinstance(line["gold"], list):
        return min((max(score, 1 - score) for score in scores), default=0.0)
    return max(scores, default=0.0)


def _mistaken(line: Line) -> float:
    return 1.0 + _sure(line) if line["gold"] != line["predicted"] else 0.0


def _off(line: Line) -> float:
    return abs(float(line["gold"]) - float(line["predicted"]))


def _mistagged(line: Line) -> float:
    return float(sum(one != other for one, other in zip(line["gold"], line["predicted"], strict=True)))


def _missed(line: Line) -> float:
    """How far the first right passage is from the first place."""
    return 1.0 - float(line["figures"]["mrr"])


def _turned(line: Line) -> float:
    """By how much the worse answer of a pair has the higher reward."""
    better, worse = line["rewards"]
    return max(0.0, float(worse) - float(better))


def _mistranslated(line: Line) -> float:
    return 100.0 - float(line["figures"]["chrf"])


def _text(line: Line, texts: Mapping[str, str]) -> Cell:
    place = str(line["place"])
    return Cell(texts[place], place) if place in texts else Cell(place)


def _labelled(line: Line, texts: Mapping[str, str]) -> tuple[Content, ...]:
    return _text(line, texts), _named(line["gold"]), _named(line["predicted"]), f"{_sure(line):.1%}"


def _number(line: Line, texts: Mapping[str, str]) -> tuple[Content, ...]:
    return (
        _text(line, texts),
        f"{line['gold']:.4g}",
        f"{line['predicted']:.4g}",
        f"{line['predicted'] - line['gold']:+.4g}",
    )


def _tagged(line: Line, texts: Mapping[str, str]) -> tuple[Content, ...]:
    found = [_named(sorted({tag for tag in line[side] if tag != "O"})) for side in ("gold", "predicted")]
    return _text(line, texts), *found, str(int(_mistagged(line)))


def _stepped(line: Line, _: Mapping[str, str]) -> tuple[Content, ...]:
    said = [", ".join(verdict or "–" for verdict in line[side]) for side in ("gold", "predicted")]
    return Cell(_cut(line["prompt"]), str(line["place"])), *said, str(int(_mistagged(line)))


def _ranked(line: Line, _: Mapping[str, str]) -> tuple[Content, ...]:
    asked = Cell(_cut(line["query"]), str(line["place"]))
    return (
        asked,
        _cut((line["right"] or ["–"])[0]),
        _cut((line["found"] or ["–"])[0]),
        f"{line['figures']['mrr']:.2f}",
    )


def _translated(line: Line, _: Mapping[str, str]) -> tuple[Content, ...]:
    source = Cell(_cut(line["source"]), str(line["place"]))
    return source, _cut(line["gold"]), _cut(line["predicted"]), f"{line['figures']['chrf']:.1f}"


def _pair(line: Line, _: Mapping[str, str]) -> tuple[Content, ...]:
    prompt, (better, worse) = Cell(_cut(line["prompt"]), str(line["place"])), line["rewards"]
    return prompt, _cut(line["chosen"]), _cut(line["rejected"]), f"{better - worse:+.2f}"


def _named(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value)) or "none"


def _cut(text: str) -> str:
    return shortened(text, LONGEST)


_LABELS = ("row", "label", "the model says", "confidence")
_WRONG = "Worst errors: {wrong} of {rows} rows are wrong"
_TOLD: Mapping[str, tuple[Any, str, Sequence[str], Sequence[int], Any]] = {
    "single": (_mistaken, _WRONG, _LABELS, (0, 1, 2), _labelled),
    "multi": (_mistaken, _WRONG, ("row", "labels", *_LABELS[2:]), (0, 1, 2), _labelled),
    "regression": (_off, "The numbers that are furthest off", ("row", "number", "the model says", "off by"), (0,), _number),
    "tags": (_mistagged, _WRONG, ("row", "tags", "the model says", "wrong words"), (0, 1, 2), _tagged),
    "steps": (_mistagged, "Worst errors: in {wrong} of {rows} rows a step is judged wrongly", ("row", "steps", "the model says", "wrong verdicts"), (0, 1, 2), _stepped),
    "ranking": (
        _missed, "Worst errors: of {wrong} of {rows} queries what was found first is wrong",
        ("query", "right", "found first", "reciprocal rank"), (0, 1, 2), _ranked,
    ),
    "pairs": (
        _turned, "Worst errors: in {wrong} of {rows} pairs the worse answer has the higher reward",
        ("prompt", "better", "worse", "difference"), (0, 1, 2), _pair,
    ),
    "translation": (
        _mistranslated, "The translations that are furthest from what was expected",
        ("source", "expected", "the model says", "chrF"), (0, 1, 2), _translated,
    ),
}  # fmt: skip
"""Of each problem: how bad a row is (0: not at all), the caption, heads, which columns are words, and a row."""
