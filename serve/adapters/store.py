"""Changes the adapters and aliases of a bundle while it is served: on disk first, then in memory; one change at a time."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ptune.engine.adapters.fold.fold import Limits
from ptune.engine.adapters.folder import adopt, install, remove, sweep
from ptune.errors import AdapterError, FormatError, PtuneError, RequestError, UsageError
from ptune.formats.bundle import BASE, AdapterRecord, Alias, Bundle, Canary
from ptune.kinds import DECODER, of_task

from .aliases import rolled_back, switched, users_of, without
from .trial import try_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class ServedAdapters(Protocol):
    """An engine, as far as the store needs it."""

    @property
    def bundle(self) -> Bundle: ...
    @property
    def adapters(self) -> list[str]: ...
    @property
    def in_memory(self) -> list[str]: ...
    def record(self, name: str, /) -> AdapterRecord | None: ...
    def load_adapter(self, name: str, /) -> None: ...
    def drop_adapter(self, name: str, /) -> None: ...
    def refresh(self) -> None: ...


class AdapterStore:
    """The adapters of one bundle. Methods may be called from any thread; they raise RequestError.

    max_adapters: how many the bundle may have. prepare: called with the name of each adapter before it is served.
    max_bytes: of what an added adapter is folded into.
    """

    def __init__(
        self,
        engine: ServedAdapters,
        max_adapters: int,
        prepare: Callable[[str], object] = lambda _: None,
        max_bytes: int | None = None,
    ) -> None:
        self._engine = engine
        self._prepare = prepare
        self._max_adapters = max_adapters
        self._limits = Limits(most_bytes=max_bytes)
        self._changing = threading.Lock()

    def cards(self) -> list[dict[str, Any]]:
        """Describes each adapter."""
        cards = []
        for name in self._engine.adapters:
            with suppress(RequestError):  # it was removed just now
                cards.append(self.card(name))
        return cards

    def card(self, name: str) -> dict[str, Any]:
        """Describes one adapter. Raises: RequestError(404)."""
        record, bundle = self.record(name), self._engine.bundle
        folder = bundle.adapter_path(name)
        files = (folder / file for file in record.files)
        return {
            "object": "adapter",
            "name": name,
            "hash": bundle.manifest.adapters.get(name),
            "task": record.task,
            "rank": record.rank,
            "virtual_tokens": record.virtual_tokens,
            "folded_from": None if record.folded is None else record.folded.method,
            "bytes": sum(file.stat().st_size for file in files if file.is_file()),
            "parity": record.parity,
            "base": "unverified base" if record.base is None else "verified",
            "loaded": name in self._engine.in_memory,
            "added": record.added,
            "aliases": users_of(bundle.manifest.aliases, name),
        }

    def record(self, name: str) -> AdapterRecord:
        """An adapter's record. Raises: RequestError: 404; 400 for the base."""
        record = None if name == BASE else self._engine.record(name)
        if record is None:
            raise RequestError(f"{BASE!r} is not an adapter", param="name", code="invalid_name")
        return record

    def check_name(self, name: str) -> None:
        """Raises: RequestError: 400 if the name is not valid, 409 if it is taken, or there are too many adapters."""
        check_name(name)
        manifest = self._engine.bundle.manifest
        if name in manifest.adapters or name in manifest.aliases:
            kind = "an alias" if name in manifest.aliases else "an adapter"
            raise _conflict(f"there is {kind} {name!r} already", "name", "name_taken")
        if len(manifest.adapters) >= self._max_adapters:
            raise _conflict(
                f"there are {self._max_adapters} adapters already (--max-adapters)", "name", "too_many"
            )

    def add(self, folder: Path, name: str, alias: str | None = None) -> None:
        """Copies a PEFT folder into the bundle and serves it, unmeasured; then points `alias` at it, if given.

        Raises: RequestError: 400 that lists what does not fit, 409, 507 if the disk cannot store it.
        """
        with self._change() as bundle:
            self.check_name(name)
            if alias is not None:
                self._check_alias(alias, name)
            if of_task(bundle.manifest.task) is not DECODER:
                raise RequestError(
                    "add an adapter of an encoder or an encoder-decoder with `ptune add` on this bundle, then send only "
                    f'{{"name": "{name}"}}',
                    code="needs_ptune_add",
                )
            with _client_errors(str(folder), name):
                try_out(bundle.folder, folder)
                sweep(bundle)
                install(bundle, folder, name, limits=self._limits)
                try:
                    self._engine.load_adapter(name)
                    self._prepare(name)
                except BaseException:
                    with suppress(RequestError):
                        self._engine.drop_adapter(name)
                    remove(bundle, name)
                    raise
            if alias is not None:
                self._point(bundle, alias, name, None)

    def adopt(self, folder: Path, name: str, alias: str) -> None:
        """Serves an adapter that was verified in a copy of this bundle, and points `alias` at it.

        Does nothing if both exist already, from before the server restarted: the alias may have been rolled back since.
        Raises: RequestError: 400, 409, 507.
        """
        with self._change() as bundle:
            self._check_alias(alias, name)
            if name in bundle.manifest.adapters and alias in bundle.manifest.aliases:
                return
            if name not in bundle.manifest.adapters:
                self.check_name(name)
                with _client_errors(str(folder), name):
                    sweep(bundle)
                    adopt(bundle, folder, name)
            self._engine.load_adapter(name)
            self._prepare(name)
            self._point(bundle, alias, name, None)

    def names(self) -> list[str]:
        """Names of the adapters that are served."""
        return list(self._engine.adapters)

    def reload(self, name: str, alias: str | None = None) -> None:
        """Serves an adapter that `ptune add` has put into the bundle; then points `alias` at it, if given.

        Raises: RequestError: 400, 404, 409, 507.
        """
        with self._change() as bundle:
            if alias is not None:
                self._check_alias(alias, name)
            if name not in bundle.manifest.adapters:
                message = f"{bundle.folder.name} has no adapter {name!r}: send its files, or their path"
                raise RequestError(message, param="name", code="adapter_not_found", status=404)
            with _client_errors(str(bundle.folder), bundle.folder.name):
                self._engine.load_adapter(name)
                self._prepare(name)
            if alias is not None:
                self._point(bundle, alias, name, None)

    def follow(self) -> None:
        """Serves what the bundle on disk holds, where another process has changed it. Raises: RequestError."""
        with self._change() as bundle:
            before, now = self._engine.bundle.manifest, bundle.manifest
            if now == before:
                return
            for name in before.adapters.keys() - now.adapters.keys():
                self._engine.drop_adapter(name)
            for name, digest in now.adapters.items():
                if before.adapters.get(name) != digest:
                    self._engine.load_adapter(name)
                    self._prepare(name)
            self._engine.refresh()

    def remove(self, name: str) -> None:
        """Removes an adapter; its requests in progress finish. Raises: RequestError: 404; 409 if an alias points at it."""
        with self._change() as bundle:
            self.record(name)
            if users := users_of(bundle.manifest.aliases, name):
                listed = ", ".join(users)
                raise _conflict(
                    f"{name!r} is in use by {listed}: point each alias elsewhere first", "name", "in_use"
                )
            self._engine.drop_adapter(name)
            if name in bundle.manifest.adapters:
                self._write_aliases(bundle, without(bundle.manifest.aliases, name))
                remove(bundle, name)
            self._engine.refresh()

    def aliases(self) -> Mapping[str, Alias]:
        return self._engine.bundle.manifest.aliases

    def point(self, alias: str, name: str, canary: Canary | None) -> Alias:
        """Points an alias at an adapter, from the next request on. Raises: RequestError: 400, 404, 409."""
        with self._change() as bundle:
            self.check_target(alias, name, canary)
            return self._point(bundle, alias, name, canary)

    def check_target(self, alias: str, name: str, canary: Canary | None) -> None:
        """Raises: RequestError: 400, 404, 409 where an alias cannot point there."""
        self._check_alias(alias)
        kind = self.record(name).task
        if canary is not None and (canary.name == name or self.record(canary.name).task != kind):
            raise RequestError(
                f"canary: choose a different adapter for {kind} (is {canary.name!r})", param="canary.name"
            )

    def settle(self, alias: str, tried: tuple[str, Canary], name: str) -> bool:
        """Points an alias at one of the two that were tried; False, and nothing is changed, where it has others by now.

        Raises: RequestError(507) if the disk cannot store it.
        """
        with self._change() as bundle:
            now = bundle.manifest.aliases.get(alias)
            if now is None or (now.name, now.canary) != tried:
                return False
            self._point(bundle, alias, name, None)
            return True

    def roll_back(self, alias: str) -> Alias:
        """Points an alias back at its previous adapter. Raises: RequestError: 404, 409."""
        with self._change() as bundle:
            previous = rolled_back(alias, self._alias(bundle, alias))
            self._write_aliases(bundle, {**bundle.manifest.aliases, alias: previous})
            return previous

    def forget_alias(self, alias: str) -> None:
        """Removes an alias. Raises: RequestError(404)."""
        with self._change() as bundle:
            self._alias(bundle, alias)
            aliases = {**bundle.manifest.aliases}
            del aliases[alias]
            self._write_aliases(bundle, aliases)

    @contextmanager
    def _change(self) -> Iterator[Bundle]:
        """Opens the bundle as it is on disk now, for one change at a time."""
        with self._changing, _client_errors(str(self._engine.bundle.folder), self._engine.bundle.folder.name):
            yield Bundle.open(self._engine.bundle.folder)

    def _point(self, bundle: Bundle, alias: str, name: str, canary: Canary | None) -> Alias:
        target = switched(bundle.manifest.aliases.get(alias), name, canary)
        self._write_aliases(bundle, {**bundle.manifest.aliases, alias: target})
        return target

    def _write_aliases(self, bundle: Bundle, aliases: Mapping[str, Alias]) -> None:
        if aliases != bundle.manifest.aliases:
            bundle.write_manifest(bundle.manifest.model_copy(update={"aliases": dict(aliases)}))
            self._engine.refresh()

    def _check_alias(self, alias: str, *new: str) -> None:
        check_name(alias, "alias")
        if alias in (*self._engine.adapters, *new):
            raise _conflict(f"{alias!r} is the name of an adapter", "alias", "name_taken")

    def _alias(self, bundle: Bundle, alias: str) -> Alias:
        if alias not in bundle.manifest.aliases:
            message = f"no alias {alias[:80]!r} here"
            raise RequestError(message, param="alias", code="alias_not_found", status=404)
        return bundle.manifest.aliases[alias]


@contextmanager
def _client_errors(path: str, name: str) -> Iterator[None]:
    """Turns errors into those for clients, without the server's paths."""
    try:
        yield
    except RequestError:
        raise
    except (AdapterError, FormatError, UsageError) as error:
        raise RequestError(str(error).replace(path, name), code="invalid_adapter") from None
    except PtuneError as error:  # of the disk
        raise RequestError(str(error).replace(path, name), code="not_stored", status=507) from None


def check_name(name: str, param: str = "name") -> None:
    """Raises: RequestError(400) if the name of an adapter or alias is not valid."""
    if name == BASE or not _NAME.fullmatch(name):
        raise RequestError(
            f"{param} {name[:80]!r}: a name has up to 96 letters, digits, '.', '_' and '-', begins with a letter or digit, "
            f"and is not {BASE!r}",
            param=param,
            code="invalid_name",
        )


def _conflict(message: str, param: str, code: str) -> RequestError:
    return RequestError(message, param=param, code=code, status=409)
