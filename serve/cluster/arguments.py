"""What an application on Ray is made of, as it stands in a config file: plain values that travel to other machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ptune.engine.options import EngineOptions
from ptune.errors import UsageError

from ..access.auth import ApiKeys
from ..service import Settings

Options = TypeVar("Options")
_NOT_WRITTEN = {"api_keys", "files", "max_stored_bytes"}  # settings that belong to one process


class Arguments(BaseModel):
    """The bundle, and how it is served. Folders and files are those of every machine that has a replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bundle: Path
    api_key_file: Path | None = None
    replicas: int = Field(default=1, ge=1)  # the fewest
    max_replicas: int | None = Field(default=None, ge=1)  # None = as many as `replicas`, whatever the load
    replica_cpus: float = Field(default=1, ge=0)  # of each replica; its engine has as many threads
    engine: dict[str, Any] = {}  # fields of `EngineOptions` that differ from their defaults
    settings: dict[str, Any] = {}  # fields of `Settings` that do
    log_json: bool = False

    @model_validator(mode="after")
    def _checked(self) -> Arguments:
        self.engine_options()
        self.served_settings()
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas must be {self.replicas} or more (is {self.max_replicas})")
        return self

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """The arguments of a config file. Raises: UsageError that names the first wrong field."""
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"]))
            raise UsageError(f"args{'.' if field else ''}{field}: {problem['msg']}") from None

    def engine_options(self) -> EngineOptions:
        """The engine's options; without a number of threads it takes as many as the replica has cores."""
        given = {"threads": self.cores, **self.engine}
        for name in ("draft_model", "kv_disk"):
            if (path := given.get(name)) is not None:
                given[name] = Path(path)
        return _made(EngineOptions, given)

    def served_settings(self, api_keys: ApiKeys | None = None) -> Settings:
        """The settings of each replica. What one process would have to keep for later requests is not kept."""
        given = {**self.settings, "hosts": frozenset(self.settings.get("hosts", ()))}
        if (root := given.get("adapter_root")) is not None:
            given["adapter_root"] = Path(root)
        alone = {"max_stored_bytes": 0, "judges_canaries": False}
        return _made(Settings, {**given, **alone, "api_keys": api_keys or ApiKeys()})

    @property
    def cores(self) -> int:
        return max(1, int(self.replica_cpus))

    def written(self) -> dict[str, Any]:
        """As in a config file: plain values, without those that are as they would be anyway."""
        return self.model_dump(mode="json", exclude_defaults=True)


def changed(options: Any) -> dict[str, Any]:
    """The fields of `EngineOptions` or `Settings` that differ from their defaults, as plain values."""
    kind = EngineOptions if isinstance(options, EngineOptions) else Settings
    default = kind()
    found = {}
    for field in fields(kind):
        value = getattr(options, field.name)
        if field.name not in _NOT_WRITTEN and value != getattr(default, field.name):
            plain = sorted(value) if isinstance(value, frozenset) else value
            found[field.name] = str(plain) if isinstance(plain, Path) else plain
    return found


def _made(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Options with these fields. Raises: ValueError for a field that there is not, or a value of another type."""
    default: Any = kind()
    for name, value in given.items():
        if name not in {field.name for field in fields(default)}:
            raise ValueError(f"there is no option {name!r}")
        usual = getattr(default, name)
        if usual is not None and not isinstance(
            value, (int, float) if isinstance(usual, float) else type(usual)
        ):
            raise ValueError(f"{name} must be of type {type(usual).__name__} (is {value!r})")
    return kind(**given)
