"""The file of API keys: one key a line, or TOML or JSON lines that state what each key may do.

[[keys]]                     # in JSON lines: {"name": "alice", "sha256": …}
name = "alice"               # appears in logs; the scheduler shares time fairly between names
sha256 = "9f86d081…"         # of the key, so that the file does not hold the secret; or `key = "…"`
scopes = ["infer"]           # infer (default), metrics, admin
adapters = ["sql", "prod"]   # names and aliases that it may use; default: all
requests_per_minute = 60
tokens_per_minute = 100_000  # of prompts and answers
concurrent = 4
weight = 2.0                 # its share when several keys wait; default 1
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ptune.errors import UsageError

Scope = Literal["infer", "metrics", "admin"]
ALL: frozenset[Scope] = frozenset({"infer", "metrics", "admin"})
MAX_FILE_BYTES = 16 * 2**20

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
_Count = Annotated[int, Field(ge=1, le=10**12)]


class Limits(BaseModel):
    """Limits of a key; None = no limit."""

    model_config = ConfigDict(frozen=True)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers together
    concurrent: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Key:
    """An API key, and what it may do."""

    name: str
    digest: bytes = field(repr=False)  # SHA-256 of the key
    scopes: frozenset[Scope] = ALL
    adapters: frozenset[str] | None = None  # None = all
    limits: Limits = UNLIMITED
    weight: float = 1.0

    def may_use(self, model: str) -> bool:
        """Whether requests may name the model. An alias must be listed itself; its adapters need not be."""
        return self.adapters is None or model in self.adapters


ANYBODY = Key("anybody", b"")
"""The key of every request to a server without keys."""


def plain(secret: str, name: str | None = None) -> Key:
    """A key with all scopes, as in a file with one key a line."""
    digest = hashlib.sha256(secret.encode()).digest()
    return Key(name or f"key-{hashlib.sha256(digest).hexdigest()[:8]}", digest)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: _Name
    key: Annotated[str, Field(pattern=r"^\S+$", max_length=1024)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    scopes: Annotated[list[Scope], Field(min_length=1)] = ["infer"]
    adapters: Annotated[list[str], Field(min_length=1)] | None = None
    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    concurrent: _Count | None = None
    weight: float = Field(default=1.0, ge=0.001, le=1000)

    @model_validator(mode="after")
    def _one_of_two(self) -> _Entry:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        return self

    def to_key(self) -> Key:
        return Key(
            self.name,
            bytes.fromhex(self.sha256) if self.sha256 else hashlib.sha256((self.key or "").encode()).digest(),
            frozenset(self.scopes),
            None if self.adapters is None else frozenset(self.adapters),
            Limits(
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                concurrent=self.concurrent,
            ),
            self.weight,
        )


@dataclass(frozen=True)
class KeyFile:
    """The content of a key file."""

    keys: tuple[Key, ...]
    warnings: tuple[str, ...] = ()  # about the file's permissions


def read(path: Path) -> KeyFile:
    """Reads a key file in any of its formats. Messages never quote a key.

    Raises: UsageError if it cannot be read or parsed, holds no key (an empty file must not open the server), or holds
    a name or a key twice.
    """
    try:
        with path.open("rb") as file:
            mode, raw = path.stat().st_mode, file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig")  # Windows' editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"cannot read the API keys in {path}: {reason}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{path} has over {MAX_FILE_BYTES} bytes: is it the file of API keys?")
    keys, secrets = _checked(text, path)
    return KeyFile(keys, tuple(_exposed(path, mode, secrets)))


def parsed(text: str, path: Path) -> tuple[Key, ...]:
    """The keys of a file's text. path: for messages, and by its suffix. Raises: as `read`."""
    return _checked(text, path)[0]


def _checked(text: str, path: Path) -> tuple[tuple[Key, ...], bool]:
    """As `_parsed`. Raises: UsageError where there is no key, or a name or a key twice."""
    keys, secrets = _parsed(text, path)
    if not keys:
        raise UsageError(f"{path} holds no API key: write one a line")
    for field_name, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if repeated := [index for index, value in enumerate(values) if Counter(values)[value] > 1]:
            first, second = repeated[0] + 1, repeated[1] + 1
            raise UsageError(f"{path}: entries {first} and {second} have the same {field_name}")
    return keys, secrets


def _parsed(text: str, path: Path) -> tuple[tuple[Key, ...], bool]:
    """The keys, and whether the file holds any of them as plain text."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    first = lines[0][1] if lines else ""
    if first.startswith("{"):
        entries = [_entry(_json(line, f"{path}:{number}"), f"{path}:{number}") for number, line in lines]
    elif first.startswith("[[") or path.suffix == ".toml":
        entries = [_entry(entry, f"{path}: keys[{index}]") for index, entry in enumerate(_toml(text, path))]
    else:
        for number, line in lines:
            if len(line.split()) > 1:
                raise UsageError(
                    f"{path}:{number}: a key has no white space; write one a line, or TOML that begins with [[keys]]"
                )
        return tuple(plain(line) for _, line in lines), True
    return tuple(entry.to_key() for entry in entries), any(entry.key is not None for entry in entries)


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise UsageError(f"{place}: not valid JSON: {reason}") from None


def _toml(text: str, path: Path) -> list[Any]:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    if content.keys() - {"keys"} or not isinstance(content.get("keys", []), list):
        raise UsageError(f"{path}: it may hold only tables called [[keys]]")
    return content.get("keys", [])


def _entry(content: Any, place: str) -> _Entry:
    try:
        return _Entry.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field_name = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise UsageError(f"{place}: {field_name}{': ' if field_name else ''}{message}") from None


def _exposed(path: Path, mode: int, secrets: bool) -> list[str]:
    """Warnings about a file that other users of this machine can read or change."""
    warnings = []
    if secrets and mode & 0o004:
        warnings.append(
            f"everybody on this machine can read the keys in {path}: chmod 600, or write sha256 instead"
        )
    if mode & 0o002:
        warnings.append(f"everybody on this machine can change {path}, and so let themselves in: chmod 600")
    return warnings
