"""`--follow RUN`: serves each new best checkpoint of a run in progress, once a subprocess has verified it."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ptune.child import module_command
from ptune.errors import PtuneError, UsageError
from ptune.formats.run import Run
from ptune.kinds import DECODER, of_task

from .adapters.store import check_name

if TYPE_CHECKING:
    from ptune.formats.bundle import Bundle

    from .adapters.store import AdapterStore

LEAVE_S = 10
PROVER = module_command("ptune.publish.follow")
_log = logging.getLogger("ptune.serve")


@dataclass(frozen=True)
class Follow:
    """The run to follow, and the name of its newest verified checkpoint. threads: for the verification."""

    run: Path
    name: str
    threads: int = 1

    def check(self, bundle: Bundle) -> None:
        """Raises: UsageError if this machine cannot verify checkpoints, or the run does not belong to the bundle."""
        missing = [
            package for package in ("torch", "transformers", "peft", "onnx") if find_spec(package) is None
        ]
        if missing:
            raise UsageError(
                f"--follow verifies each checkpoint against torch, and {missing[0]} is not installed here:"
                " pip install 'ptune[export]'"
            )
        record, manifest = Run.open(self.run).record(), bundle.manifest
        if of_task(manifest.task) is not DECODER:
            raise UsageError("--follow is for bundles of chat models; `ptune add` the run when it has ended")
        if record.base.hash != manifest.base.hash:
            raise UsageError(
                f"--follow {self.run}: it trains on another base ({record.base.hash[:12]}) than {bundle.folder} holds"
                f" ({manifest.base.hash[:12]})"
            )
        check_name(self.name, "--follow-name")
        if self.name in manifest.adapters:
            raise UsageError(
                f"{bundle.folder} has an adapter {self.name!r}: choose another name with --follow-name"
            )


@contextmanager
def following(
    follow: Follow, store: AdapterStore, bundle: Path, prover: Sequence[str] = PROVER, *, quiet: bool = False
) -> Iterator[None]:
    """Follows a run for the duration of the block. Errors are logged; what is served stays served.

    quiet: do not show the progress of verifications on standard error.
    """
    command = [*prover, str(follow.run), str(bundle), follow.name, "--threads", str(follow.threads)]
    errors = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    listener = threading.Thread(
        target=_listen, args=(process, follow, store), name="ptune-follow", daemon=True
    )
    listener.start()
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join()


def _listen(process: subprocess.Popen[str], follow: Follow, store: AdapterStore) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        for line in process.stdout:
            try:
                _handle(json.loads(line), follow, store)
            except PtuneError as error:
                _log.error("following %s: %s", follow.run, error)
            except Exception as error:
                _log.error("following %s failed: %s", follow.run, type(error).__name__)
            try:
                process.stdin.write("\n")
                process.stdin.flush()
            except BrokenPipeError:
                break
    code = process.wait()
    if code > 0:
        _log.error("following %s has ended with exit code %s; what is served stays", follow.run, code)


def _handle(report: dict[str, str], follow: Follow, store: AdapterStore) -> None:
    """Serves a verified checkpoint, points the name at it, and removes versions that no rollback needs."""
    if "failed" in report:
        _log.error("%s cannot be followed: %s", follow.run, report["failed"])
        return
    version = report["name"]
    if "refused" in report:
        _log.error("%s is not served: %s", version, report["refused"])
        return
    store.adopt(Path(report["folder"]), version, follow.name)
    alias = store.aliases()[follow.name]
    print(f"{follow.name} is {alias.name} now, proved", flush=True)
    versions = [name for name in store.names() if name.startswith(f"{follow.name}-step-")]
    for name in versions:
        if name not in (alias.name, alias.previous):
            store.remove(name)
