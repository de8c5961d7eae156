"""ptune serve BUNDLE"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ptune.cli.engine_flags import NO_FLAGS, EngineFlags, size_of
from ptune.cli.parse import parse
from ptune.cli.ray_flags import NO_RAY, RayServeFlags
from ptune.engine.options import GIB
from ptune.errors import UsageError


def run(arguments: list[str]) -> int:
    return parse(Serve, arguments, "serve").start()


@dataclass(frozen=True)
class Serve:
    """Serves a bundle over HTTP, a chat model in OpenAI's shape, an encoder in vLLM's, an encoder-decoder at
    /v1/translate, and opens a page beside it. Or several bundles behind one port.

    The bundle's golden vectors are replayed before the first answer: a machine that computes otherwise is found out.
    """

    bundle: Positional[Path]
    """A bundle's folder, or a folder of several, each of which is loaded when it is asked for."""
    more: Positional[tuple[Path, ...]] = ()
    """Further ones."""
    host: str = "127.0.0.1"
    """Address to listen at; the default is reachable from this machine only."""
    port: int = 8000
    """Port; 0 takes a free one."""
    api_key_file: Path | None = None
    """File of API keys: one a line, or TOML or JSON lines with scopes, adapters and limits; read again when it changes."""
    connections_per_address: int | None = None
    """Most connections from one address, for a server that clients reach without a proxy; default: any number."""
    ssl_certfile: Path | None = None
    """Speak TLS with this certificate (PEM, with those that signed it); read again at SIGHUP."""
    ssl_keyfile: Path | None = None
    """The certificate's private key (PEM, without a password); default: in the same file."""
    ui: bool = True
    """Start the page (a process of its own; it asks for a key where the server does)."""
    ui_port: int = 7860
    """Port of the page."""
    engine: EngineFlags = NO_FLAGS
    """Options of the engine."""
    cluster: RayServeFlags = NO_RAY
    """Serving on several machines."""
    memory_gb: float | None = None
    """Most memory that several bundles may take together, in GB of 2^30 bytes; default: most of what is free."""
    idle_s: float | None = None
    """How long one of several bundles stays loaded without requests; 0: until others need its room. Default: 300."""
    adapters_api: bool = False
    """Let adapters be added and removed over HTTP, by keys of scope admin."""
    adapter_root: Path | None = None
    """Folders below it may be named as adapters over HTTP, and files as texts that judge a canary."""
    max_adapter_bytes: str = "1GB"
    """Most bytes of an adapter that is added over HTTP."""
    max_adapters: int = 1000
    """Most adapters, where they are added over HTTP."""
    max_stored_bytes: str = "256MB"
    """Most bytes of answers of /v1/responses that are kept in memory to be gone on from; 0: none is kept."""
    files: Path | None = None
    """Folder for the files of /v1/files and the batches of /v1/batches, which a restart goes on with; default: neither."""
    max_file_bytes: str = "200MB"
    """Most bytes of a file that is uploaded."""
    files_bytes: str = "10GB"
    """Most bytes of all files; where there are keys, one key may have half of them."""
    batch_lines: int = 8
    """Most requests of batches that are answered at once."""
    require_parity: bool = False
    """Refuse requests for adapters that were not measured."""
    thinking_token_budget: int | None = None
    """Most tokens of thought before an answer, where neither the request nor the adapter says; default: any number."""
    follow: Path | None = None
    """A run of a chat model on this bundle's base: each new best checkpoint is proved and served (needs torch)."""
    follow_name: str | None = None
    """Name under which it answers; default: the run's folder's."""
    drain_s: float = 30
    """How long running answers may go on after SIGTERM, in seconds."""
    step_limit_s: float = 300
    """A step of the engine that takes longer makes /health answer 503, for the server to be restarted."""
    log_json: bool = False
    """Log as JSON lines on standard error, one for each request among them."""
    audit_log: Path | None = None
    """File to which each request that may change what is served appends a line: when, whose key, what, and the outcome."""
    receipts: Path | None = None
    """Folder that keeps of each answer of a chat model what `ptune replay` computes it again from: prompts, too."""
    receipt_days: int = 30
    """Receipts older than so many days are deleted."""
    ready_file: Path | None = None
    """Written with the server's URL once it answers."""

    def start(self) -> int:
        """Serves until SIGTERM or Ctrl-C; the exit code. Raises: PtuneError."""
        if self.cluster.ray is not None or self.cluster.write_config is not None:
            return self._start_on_ray()
        lifecycle = importlib.import_module("ptune_serve.lifecycle")
        code: int = lifecycle.serve(
            self._served(),
            host=self.host,
            port=self.port,
            api_key_file=self.api_key_file,
            ui=self.ui,
            ui_port=self.ui_port,
            options=self.engine,
            settings=self._settings(),
            ready_file=self.ready_file,
            log_json=self.log_json,
            follow=self._followed(),
            files=self._files(),
            certificate=self._certificate(),
        )
        return code

    def _start_on_ray(self) -> int:
        """Serves on Ray, or writes a config file for it. Raises: PtuneError."""
        for option, value in (
            ("--follow", self.follow),
            ("--files", self.files),
            ("--audit-log", self.audit_log),
            ("--receipts", self.receipts),
            ("--ssl-certfile", self.ssl_certfile),
            ("--connections-per-address", self.connections_per_address),
            ("--memory-gb", self.memory_gb),
            ("--idle-s", self.idle_s),
        ):
            if value is not None:
                raise UsageError(f"{option} works within one server: leave it out with --ray")
        if self.more:
            raise UsageError("--ray serves one bundle on several machines, not several bundles")
        arguments = importlib.import_module("ptune_serve.cluster.arguments")
        launch = importlib.import_module("ptune_serve.cluster.launch")
        fewest, most = self.cluster.bounds()
        wanted = arguments.Arguments(
            bundle=self.bundle,
            api_key_file=self.api_key_file,
            replicas=fewest,
            max_replicas=most,
            replica_cpus=self.cluster.cores(),
            engine=arguments.changed(self.engine),
            settings=arguments.changed(self._settings()),
            log_json=self.log_json,
        )
        if self.cluster.write_config is not None:
            launch.write_config(wanted, self.cluster.write_config, self.host, self.port)
            return 0
        door = launch.Door(self.host, self.port, self.ui_port if self.ui else None, self.ready_file)
        code: int = launch.serve_on_ray(wanted, self.cluster.ray, door)
        return code

    def _served(self) -> Any:
        """The bundle, or several. Raises: UsageError for options of several with one."""
        folder = importlib.import_module("ptune_serve.bundles.folder")
        if not self.more and not folder.holds_bundles(self.bundle):
            for option, value in (("--memory-gb", self.memory_gb), ("--idle-s", self.idle_s)):
                if value is not None:
                    raise UsageError(f"{option} is for several bundles: leave it out, or name their folder")
            return self.bundle
        if self.memory_gb is not None and not 0 < self.memory_gb < 2**20:  # false for nan, too
            raise UsageError(f"--memory-gb must be over 0 (is {self.memory_gb})")
        memory_bytes = None if self.memory_gb is None else int(self.memory_gb * GIB)
        idle_s = folder.IDLE_S if self.idle_s is None else self.idle_s
        return folder.SeveralBundles((self.bundle, *self.more), memory_bytes, idle_s)

    def _settings(self) -> Any:
        return importlib.import_module("ptune_serve.service").Settings(
            connections_per_address=self.connections_per_address,
            adapters_api=self.adapters_api,
            adapter_root=self.adapter_root,
            max_adapter_bytes=size_of(self.max_adapter_bytes, "--max-adapter-bytes"),
            max_adapters=self.max_adapters,
            batch_lines=self.batch_lines,
            max_stored_bytes=_size_or_none(self.max_stored_bytes, "--max-stored-bytes"),
            audit=self._audit(),
            receipts=self._receipts(),
            require_parity=self.require_parity,
            thinking_token_budget=self.thinking_token_budget,
            step_limit_s=self.step_limit_s,
            drain_s=self.drain_s,
        )

    def _files(self) -> Any:
        if self.files is None:
            return None
        return importlib.import_module("ptune_serve.files.store").FilesOptions(
            self.files,
            max_file_bytes=size_of(self.max_file_bytes, "--max-file-bytes"),
            max_bytes=size_of(self.files_bytes, "--files-bytes"),
        )

    def _audit(self) -> Any:
        if self.audit_log is None:
            return None
        return importlib.import_module("ptune_serve.access.audit").AuditLog(self.audit_log)

    def _receipts(self) -> Any:
        if self.receipts is None:
            return None
        store = importlib.import_module("ptune_serve.receipts.store")
        return store.Receipts(self.receipts, self.receipt_days)

    def _certificate(self) -> Any:
        if self.ssl_certfile is None:
            if self.ssl_keyfile is not None:
                raise UsageError("--ssl-keyfile is the key of a certificate: it needs --ssl-certfile")
            return None
        tls = importlib.import_module("ptune_serve.http.tls")
        return tls.Certificate(self.ssl_certfile, self.ssl_keyfile)

    def _followed(self) -> Any:
        if self.follow is None:
            return None
        name = self.follow_name or self.follow.resolve().name
        return importlib.import_module("ptune_serve.follow").Follow(self.follow, name)


def _size_or_none(text: str, option: str) -> int:
    """Bytes; 0 for nothing at all. Raises: UsageError."""
    return 0 if text.strip() == "0" else size_of(text, option)
