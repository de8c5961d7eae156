"""Data as HTML: first rows, doctor's findings, splits, lengths, and rows as the model sees them, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ptune.begin.look import Look
from ptune.begin.starts import STARTS, Word

ROWS = 6
LONGEST_CELL = 240  # characters
_NAMES = {
    "rows": "rows", "examples": "examples", "tokens": "tokens", "targets": "learned", "anchors": "anchors",
    "passages": "passages", "negatives": "negatives", "median_tokens": "median", "longest_tokens": "longest",
    "overlong": "over-long",
}  # fmt: skip


def look(found: Look, name: str, task: Word | None = None) -> str:
    """What was recognised of a file, and its first rows. task: the one that was chosen."""
    count = f"{'more than ' if found.more else ''}{len(found.rows)} rows, " if found.columns else ""
    what = f"columns {', '.join(found.columns)}" if found.columns else f"{len(found.rows)} folders"
    told = f"<b>{escape(name)}</b> · {escape(found.format)} · {count}{escape(what)}" if found.rows else ""
    meant = task or found.task
    likely = (
        "ptune cannot tell what it is for: choose what the model is to learn"
        if meant is None
        else f"{'likely for' if meant == found.task else 'for'} <b>{meant}</b>: {escape(STARTS[meant].what)}"
    )
    bad = "".join(f'<p class="problem">{escape(one)}</p>' for one in found.unreadable)
    head = told or f"<b>{escape(name)}</b> · {escape(found.format)}"
    return f"<p>{head}</p><p class=quiet>{likely}</p>{bad}{_rows(found, name)}"


def findings(document: Mapping[str, Any], files: Sequence[str] = ()) -> str:
    """What doctor found, with file and line. files: those whose rows can be corrected."""
    found = document.get("findings", [])
    if not found:
        return '<p class="good-news">Nothing is wrong with the data.</p>'
    items = "".join(
        f'<li class="{escape(one["severity"])}"><b>{escape(one["severity"])}</b> <code>{escape(place(one["place"]))}</code>'
        f"{_others(one)} {_correct_at(one['place'], files)}<p>{escape(one['message'])}</p></li>"
        for one in found
    )
    return f"<ul class=findings>{items}</ul>"


def place(value: Mapping[str, Any] | None) -> str:
    """A place in a file: data.csv, line 3."""
    if value is None:
        return "the whole data"
    number = next((f", {unit} {value[unit]}" for unit in ("line", "row", "entry") if unit in value), "")
    return f"{value['file']}{number}"


def correct(file: str, number: int, text: str) -> str:
    """A button that shows a row to be corrected."""
    told = f"Correct row {number} of {file}"
    return f'<button type="button" class="correct" data-file="{escape(file)}" data-row="{number}" aria-label="{escape(told)}">{escape(text)}</button>'


def _correct_at(value: Mapping[str, Any] | None, files: Sequence[str]) -> str:
    number = None if value is None else next((value[unit] for unit in ("line", "row") if unit in value), None)
    if value is None or number is None or value["file"] not in files:
        return ""
    return correct(value["file"], number, "Correct it")


def splits(document: Mapping[str, Any]) -> str:
    """A table of the splits, and the labels of each."""
    known = {name: one for name, one in document.get("splits", {}).items() if _size(one)}
    if not known:
        return ""
    keys = [key for key in _NAMES if any(key in one for one in known.values())]
    head = "".join(f"<th class=number>{_NAMES[key]}</th>" for key in keys)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td class=number>{one.get(key, 0):,}</td>' for key in keys)}</tr>"
        for name, one in known.items()
    )
    table = f"<div class=scroll><table><tr><th></th>{head}</tr>{body}</table></div>"
    return f"{table}{_labels(document, known)}"


def lengths(document: Mapping[str, Any]) -> str:
    """How long the training examples are, as bars."""
    train = document.get("splits", {}).get("train", {})
    counted: Mapping[str, int] = train.get("lengths", {}) if isinstance(train, Mapping) else {}
    if not any(counted.values()):
        return ""
    most = max(counted.values())
    bars = "".join(
        f"<div class=bar><span class=label>{_range(name)}</span><span class=track><i style='width:{100 * count / most:.1f}%'>"
        f"</i></span><span class=share>{count:,}</span></div>"
        for name, count in counted.items()
        if count
    )
    limit = train.get("longest_allowed")
    longest = f", of {limit:,} allowed" if isinstance(limit, int) else ""
    return f"<h3>Tokens of a training example{longest}</h3><div class=bars>{bars}</div>"


def rows(document: Mapping[str, Any], note: str | None = None, files: Sequence[str] = ()) -> str:
    """Training rows token by token; what is learned is marked. note: what else is to be said of them. files: those whose rows
    can be corrected."""
    found: Sequence[Mapping[str, Any]] = document.get("rows", [])
    if not found:
        return ""
    tagged = any(isinstance(mark, str) for one in found for _, mark in one["tokens"])
    labelled = any(one.get("label") is not None for one in found)
    told = (
        "The model learns a tag for each marked word"
        if tagged
        else "The model reads these tokens and learns the label"
        if labelled
        else "The model reads all tokens, and learns to write those that are <mark class=learned>marked</mark>"
    )
    articles = "".join(_row(row, files) for row in found)
    more = f"<p>{escape(note)}</p>" if note else ""
    return f"<p class=quiet>{told}; small boxes are tokens.</p>{more}<div class=seen-rows>{articles}</div>"


def _row(row: Mapping[str, Any], files: Sequence[str]) -> str:
    apart = "label" in row  # an encoder's tokens are spelt without the spaces between them
    label = "" if row.get("label") is None else f"<span class=chip>{escape(str(row['label']))}</span>"
    left = f" · {row['left_out']:,} tokens left out" if row["left_out"] else ""
    pieces = "".join(_token(text, mark) for text, mark in row["tokens"])
    return (
        f"<article class=seen><header><code>{escape(place(row['place']))}</code> · {row['length']:,} tokens{left} {label} "
        f"{_correct_at(row['place'], files)}"
        f"</header><p dir=auto{' data-apart' if apart else ''}>{pieces}</p></article>"
    )


def _token(text: str, mark: bool | str) -> str:
    shown = escape(text).replace("\n", "<span class=dim>↵</span>\n")
    if isinstance(mark, str):
        return f'<mark class="token {"learned" if mark != "O" else ""}" title="{escape(mark)}">{shown}</mark>'
    if mark:
        return f'<mark class="token learned" title="learned">{shown}</mark>'
    return f"<span class=token>{shown}</span>"


def _rows(found: Look, name: str) -> str:
    if not found.columns:
        names = ", ".join(escape(str(row["label"])) for row in found.rows[:40])
        return f"<p>Labels by their folders: {names}</p>" if names else ""
    head = "".join(f"<th>{escape(column)}</th>" for column in ("row", *found.columns))
    body = "".join(
        f"<tr><th>{correct(name, number, str(number))}</th>"
        f"{''.join(f'<td dir=auto>{_cell(row.get(column))}</td>' for column in found.columns)}</tr>"
        for number, row in zip(found.numbers[:ROWS], found.rows[:ROWS], strict=True)
    )
    told = "<p class=quiet>Choose a row's number to correct it, in a copy of the file.</p>"
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>{told}"


def _cell(value: Any) -> str:
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return "".join(f"<p><b>{escape(str(one['role']))}</b> {_cell(one['content'])}</p>" for one in value)
    text = value if isinstance(value, str) else "" if value is None else _json(value)
    return escape(text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + " …")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {"role", "content"}.issubset(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _labels(document: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Bars of the labels of the training rows."""
    train = known.get("train", {}).get("labels") or {
        name: of["train"] for name, of in _chat_labels(document) if isinstance(of, Mapping)
    }
    if not train:
        return ""
    most = max([*train.values(), 1])
    bars = "".join(
        f"<div class=bar><span class=label title='{escape(name)}'>{escape(name)}</span><span class=track>"
        f"<i style='width:{100 * count / most:.1f}%'></i></span><span class=share>{count:,}</span></div>"
        for name, count in train.items()
    )
    return f"<h3>Training rows with each label</h3><div class=bars>{bars}</div>"


def _chat_labels(document: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    labels = document.get("labels")
    return labels.items() if isinstance(labels, Mapping) else ()


def _others(found: Mapping[str, Any]) -> str:
    """The next places of the same defect: ", 57, 60 and 3 more". A defect of the data as a whole has none."""
    others = found.get("others", [])
    more = found["count"] - 1 - len(others)
    listed = "".join(f", {number}" for number in others)
    return listed if found["place"] is None or more <= 0 else f"{listed} and {more:,} more"


def _range(name: str) -> str:
    first, _, last = name.partition("-")
    return first if first == last else f"{first} to {last}"


def _size(split: Mapping[str, Any]) -> int:
    return max((value for key in ("rows", "examples") if isinstance(value := split.get(key), int)), default=0)


def cleaned(made: Sequence[Mapping[str, Any]]) -> str:
    """What became of the rows of each file that was copied."""
    return "".join(
        f"<p><b>{escape(one['copy'])}</b>: {one['kept']:,} rows; left out: {one['unusable']:,} that cannot be used,"
        f" {one['copies']:,} copies of others. {_read_as(one)}{escape(one['file'])} stays as it is.</p>"
        for one in made
    )


def _read_as(copied: Mapping[str, Any]) -> str:
    encoding = copied.get("encoding", "UTF-8")
    return "" if encoding == "UTF-8" else f"It was read as {escape(encoding)}; the copy is UTF-8. "
