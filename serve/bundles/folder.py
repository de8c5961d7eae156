"""Which bundles one server has, and what is said of each: a folder of them, and `NAME.yaml` beside the bundle NAME.

# chat.yaml, beside the bundle chat/: any of these, and of the engine's options by their names on the command line
idle_s: 0                    # stays until others need its memory; default: --idle-s
preload: true                # is loaded when the server starts
kv_gb: 2
max_rows: 8
adapter_bytes: 1GB
thinking_token_budget: 500
require_parity: true
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ptune.engine.options import GIB, BatchOptions, EngineOptions, KernelChoice
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle, CacheType
from ptune.kinds import DECODER, Kind, of_task

from ..service import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(k|m|g|t)?b", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
MAX_FILE_BYTES = 64 * 1024
IDLE_S = 300.0

_Count = Annotated[int, Field(ge=1)]


class BundleOptions(BaseModel):
    """NAME.yaml: the options of one bundle; None = as the command line has it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    idle_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    preload: bool = False
    profile: str | None = None
    threads: _Count | None = None
    max_rows: _Count | None = None
    max_waiting: _Count | None = None
    adapter_bytes: Annotated[int, Field(ge=1)] | None = None
    kv_gb: Annotated[float, Field(gt=0, le=2**20)] | None = None
    kv_cache_dtype: CacheType | None = None
    prefill_chunk: _Count | None = None
    step_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    num_speculative_tokens: Annotated[int, Field(ge=0)] | None = None
    kernels: KernelChoice | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None
    require_parity: bool | None = None

    @field_validator("adapter_bytes", mode="before")
    @classmethod
    def _in_units(cls, value: Any) -> Any:
        """1GB, as on the command line."""
        if not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise ValueError("must be a size, as in 500MB or 1GB")
        return int(float(found[1]) * _UNITS[(found[2] or "").lower()])

    def of_engine(self, options: EngineOptions) -> EngineOptions:
        """The engine's options, with those of this bundle in place of the command line's."""
        chosen = {field.name: getattr(self, field.name, None) for field in fields(EngineOptions)}
        chosen["kv_bytes"] = None if self.kv_gb is None else int(self.kv_gb * GIB)
        return replace(options, **{name: value for name, value in chosen.items() if value is not None})

    def of_decoders(self) -> list[str]:
        """Names of those that are set and that only a decoder's engine has."""
        shared = {field.name for field in fields(BatchOptions)}
        named = {"kv_gb", *(field.name for field in fields(EngineOptions))} - shared
        return sorted(name for name in self.model_fields_set & named if getattr(self, name) is not None)

    def of_service(self, settings: Settings) -> Settings:
        """The server's settings, with those of this bundle."""
        chosen = {name: getattr(self, name) for name in ("thinking_token_budget", "require_parity")}
        return replace(settings, **{name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class SeveralBundles:
    """What `ptune serve` serves where it is given several bundles.

    folders: bundles, or folders of bundles. memory_bytes: of all that are loaded; None = most of what is free at the start.
    idle_s: how long a bundle stays loaded without requests; 0 = until others need its room.
    """

    folders: tuple[Path, ...]
    memory_bytes: int | None = None
    idle_s: float = IDLE_S

    def check(self) -> None:
        """Raises: UsageError for options out of range."""
        if not 0 <= self.idle_s < 1e9:  # false for nan, too
            raise UsageError(f"--idle-s must be 0 (until others need the room) or more (is {self.idle_s})")


@dataclass(frozen=True)
class PlacedBundle:
    """A bundle on disk, and its options."""

    name: str
    folder: Path
    bundle: Bundle  # as it was when it was read
    options: BundleOptions

    @property
    def kind(self) -> Kind:
        return of_task(self.bundle.manifest.task)


def is_bundle(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def holds_bundles(folder: Path) -> bool:
    """Whether a folder is no bundle, but has some."""
    return folder.is_dir() and not is_bundle(folder) and any(is_bundle(place) for place in folder.iterdir())


def find_bundles(folders: Sequence[Path]) -> list[PlacedBundle]:
    """The bundles in folders that are bundles, or hold some.

    Raises: UsageError if a folder holds none, a name cannot be used or stands for two, or an option is not valid;
    FormatError if a bundle's manifest is damaged.
    """
    found = [place for folder in folders for place in _in_folder(folder)]
    placed = [_placed(folder) for folder in dict.fromkeys(folder.resolve() for folder in found)]
    name, count = Counter(one.name for one in placed).most_common(1)[0]
    if count > 1:
        places = " and ".join(str(one.folder) for one in placed if one.name == name)
        raise UsageError(
            f"{places} have the same name, by which requests would ask for them: rename one folder"
        )
    return placed


def _in_folder(folder: Path) -> list[Path]:
    if is_bundle(folder):
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; make a bundle with `ptune export RUN`")
    found = sorted(place for place in folder.iterdir() if is_bundle(place))
    if not found:
        raise UsageError(f"{folder} is no bundle and holds none: make one with `ptune export RUN`")
    return found


def _placed(folder: Path) -> PlacedBundle:
    if not _NAME.fullmatch(folder.name):
        raise UsageError(
            f"{folder}: requests ask for a bundle by its folder's name, which has up to 96 letters, digits, '.', '_' and "
            "'-' and begins with a letter or digit: rename the folder"
        )
    placed = PlacedBundle(
        folder.name, folder, Bundle.open(folder), _options(folder.with_name(folder.name + ".yaml"))
    )
    if placed.kind is not DECODER and (wrong := placed.options.of_decoders()):
        raise UsageError(
            f"{folder}.yaml: {wrong[0]}: {placed.name} holds {placed.kind.noun}, which has no such option: leave it out"
        )
    return placed


def _options(path: Path) -> BundleOptions:
    """The options in a file; none if there is no such file. Raises: UsageError that names the field."""
    if not path.is_file():
        return BundleOptions()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has over {MAX_FILE_BYTES} bytes: is it a bundle's options?")
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    try:
        return BundleOptions.model_validate({} if content is None else content)
    except ValidationError as error:
        raise UsageError(f"{path}: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    """The first problem: the field, and what is wrong with it."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"][:1]))
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, BundleOptions.model_fields, n=1)
        hint = (
            f"did you mean {close[0]}?" if close else f"it may have {', '.join(BundleOptions.model_fields)}"
        )
        return f"{field}: there is no such option; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if not field:
        return f"it must hold options, one a line, as in `idle_s: 600` ({message})"
    return f"{field}: {message} (is {str(problem['input'])[:40]!r})"
