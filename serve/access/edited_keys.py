"""A key file that is edited by a program: a key is added, what it may do is changed, or it is taken out.

What stands around it stays as it is, comments too, and a server reads the file again (`ptune_serve.access.auth`). Files of
one key a line have no place for names and limits, so they are left alone.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ptune.errors import UsageError
from ptune.formats.whole_write import whole_file

from .keys import UNLIMITED, Key, Limits, Scope, parsed, read

_HEADER = re.compile(r"^\s*\[\[\s*keys\s*\]\]\s*(#.*)?$")
_FIELD = re.compile(r"^\s*(scopes|adapters|requests_per_minute|tokens_per_minute|concurrent)\s*=")
SECRET_BYTES = 32


@dataclass(frozen=True)
class Rights:
    """What a key may do. adapters: None = all."""

    scopes: tuple[Scope, ...] = ("infer",)
    adapters: tuple[str, ...] | None = None
    limits: Limits = UNLIMITED

    @classmethod
    def of(cls, key: Key) -> Rights:
        """Those of a key."""
        adapters = None if key.adapters is None else tuple(sorted(key.adapters))
        return cls(tuple(sorted(key.scopes)), adapters, key.limits)

    def fields(self) -> dict[str, object]:
        """As a key file has them; limits that there are none of are left out."""
        limits = {name: value for name, value in self.limits.model_dump().items() if value is not None}
        adapters = {} if self.adapters is None else {"adapters": list(self.adapters)}
        return {"scopes": list(self.scopes), **adapters, **limits}


def add(path: Path, name: str, rights: Rights) -> str:
    """Makes a key, appends it to the file, and returns it: the file holds its SHA-256 alone, so nobody can read it there
    again. Where there is no file, it is made, for its owner alone.

    Raises: UsageError where the name is taken, or the file cannot be read or has one key a line.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    entry = {"name": name, "sha256": sha256(secret.encode()).hexdigest(), **rights.fields()}
    text = _text(path) if path.exists() else ""
    if any(key.name == name for key in (read(path).keys if text else ())):
        raise UsageError(f"{path} has a key {name!r} already: take another name")
    if _is_json(text):
        _write(path, f"{text.rstrip()}\n{_json(entry)}\n")
    else:
        _write(path, f"{text.rstrip()}\n\n{_toml(entry)}".lstrip())
    return secret


def change(path: Path, name: str, rights: Rights) -> None:
    """Changes what a key may do; the key itself stays. Raises: UsageError, also where there is none of this name."""

    def edited(entry: str) -> str:
        if _is_json(entry):
            kept = {key: value for key, value in json.loads(entry).items() if not _FIELD.match(f"{key}=")}
            return f"{_json({**kept, **rights.fields()})}\n"
        lines = [line for line in entry.rstrip().split("\n") if not _FIELD.match(line)]
        return "\n".join([*lines, *_lines(rights.fields())]) + "\n\n"

    parsed(
        _toml({"name": name, "sha256": "0" * 64, **rights.fields()}), path
    )  # what is wrong with them is said first
    _edit(path, name, edited)


def remove(path: Path, name: str) -> None:
    """Takes a key out. Raises: UsageError; also for the last one, since a server without keys would answer everybody."""
    if [key.name for key in read(path).keys] == [name]:
        raise UsageError(f"{name!r} is the last key in {path}: delete the file where nobody needs a key")
    _edit(path, name, lambda entry: "")


def _edit(path: Path, name: str, edited: Callable[[str], str]) -> None:
    """Replaces the entry of a name by what `edited` makes of it."""
    before, text = read(path).keys, _text(path)
    at = next((at for at, key in enumerate(before) if key.name == name), None)
    if at is None:
        raise UsageError(f"{path} has no key {name!r}, but {', '.join(key.name for key in before)}")
    parts = _parts(text)
    if len(parts) != 1 + len(before):
        raise UsageError(f"the entry of {name!r} in {path} cannot be told from the others: edit it by hand")
    parts[1 + at] = edited(parts[1 + at])
    others = [key for key in before if key.name != name]
    _write(path, "".join(parts).rstrip() + "\n", others)


def _parts(text: str) -> list[str]:
    """What stands before the first entry, and then each entry with what follows it."""
    begins = (lambda line: line.lstrip().startswith("{")) if _is_json(text) else _HEADER.match
    parts = [""]
    for line in re.findall(r".*\n|.+", text):
        if begins(line):
            parts.append("")
        parts[-1] += line
    return parts


def _write(path: Path, text: str, others: list[Key] | None = None) -> None:
    """Replaces the file, unless that would not do what was asked. others: what has to be in it unchanged.

    Raises: UsageError.
    """
    try:
        keys = parsed(text, path)
    except UsageError:
        if others is None:
            raise
        keys = ()
    if others is not None and not {*others} <= {*keys}:
        raise UsageError(f"{path} is written in a way that only a hand can edit: change it in an editor")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    with whole_file(path, mode) as part:
        part.write_text(text, encoding="utf-8")


def _text(path: Path) -> str:
    """The file, if it can be edited."""
    keys = read(path)
    text = path.read_text(encoding="utf-8-sig")
    if keys.keys and not _is_json(text) and not any(map(_HEADER.match, text.split("\n"))):
        raise UsageError(
            f"{path} holds no [[keys]] with names and limits: begin another file, which ends in .toml"
        )
    return text


def _is_json(text: str) -> bool:
    lines = (line.strip() for line in text.split("\n"))
    return next((line for line in lines if line and not line.startswith("#")), "").startswith("{")


def _json(entry: dict[str, object]) -> str:
    return json.dumps(entry)


def _toml(entry: dict[str, object]) -> str:
    return "\n".join(["[[keys]]", *_lines(entry)]) + "\n"


def _lines(fields: dict[str, object]) -> list[str]:
    """Fields as lines of TOML, whose strings, numbers and lists of them are JSON's, but for characters that it escapes."""
    return [f"{name} = {_value(value)}" for name, value in fields.items()]


def _value(value: object) -> str:
    """TOML allows no DEL in a string, and what other programs take for the end of a line is better seen."""
    plain = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", plain)
