"""`ptune serve BUNDLE --ray`: on a cluster of its own until Ctrl-C, or onto one that runs already."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from ptune.engine.onnx_graph import available_cores
from ptune.errors import PtuneError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import write_text

from ..access.auth import ApiKeys, warn_of_open_door
from ..http.listen import bind, local_names
from ..lifecycle import check_settings
from ..ui.process import chat_page
from .arguments import Arguments

NAME = "ptune"
"""Of the application on the cluster."""
LOCAL = "local"
"""In place of an address: a cluster on this machine, which ends with the command."""


@dataclass(frozen=True)
class Door:
    """Where clients and people find the server. page_port: of the page; None = there is none."""

    host: str
    port: int
    page_port: int | None = None
    ready_file: Path | None = None


def serve_on_ray(arguments: Arguments, address: str, door: Door) -> int:
    """Serves a bundle on Ray, and returns the exit code: after Ctrl-C, or from a cluster at an address once it answers.

    An application that runs there already is updated: its replicas answer until new ones do.
    Raises: PtuneError if Ray is missing or not reached, the port is in use, or the bundle cannot be served.
    """
    require_ray()
    Bundle.open(arguments.bundle)
    arguments.engine_options().check()
    check_settings(arguments.served_settings())
    port = _free_port(door) if address == LOCAL else door.port  # in use, there, where something is updated
    keys = ApiKeys() if arguments.api_key_file is None else ApiKeys.read(arguments.api_key_file)
    arguments = _for_host(arguments, door.host)
    if not keys and not arguments.served_settings().hosts:
        warn_of_open_door(door.host)
    url = f"http://{_reached_by(door.host)}:{port}"
    with _cluster(arguments, address), _until_stopped(), contextlib.ExitStack() as stack:
        deploy(arguments, door.host, port)
        print(f"Serving {arguments.bundle} with {_replicas(arguments)} at {url}/v1", flush=True)
        if address != LOCAL:
            print("It goes on without this command: `serve status` tells of it, `serve shutdown` ends it.")
            return 0
        if door.page_port is not None:
            page_host = "127.0.0.1" if keys else door.host
            stack.enter_context(chat_page(url, page_host, door.page_port, ask=bool(keys)))
        if door.ready_file is not None:
            write_text(door.ready_file, url + "\n")
            stack.callback(door.ready_file.unlink, missing_ok=True)
        threading.Event().wait()
    return 0


def write_config(arguments: Arguments, file: Path, host: str, port: int) -> None:
    """Writes the config file with which `serve deploy` and `serve run` serve the same. Raises: PtuneError."""
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": "ptune_serve.cluster:app",
                "args": _resolved(_for_host(arguments, host)).written(),
            }
        ],
    }
    write_text(file, yaml.safe_dump(config, sort_keys=False))
    print(f"Wrote {file}. On a cluster: serve deploy {file}")


def _reached_by(host: str) -> str:
    """The name by which this machine reaches a server that listens there."""
    try:
        address = ip_address(host)
    except ValueError:  # a name
        return host
    if address.is_unspecified:
        return "localhost"
    return f"[{host}]" if address.version == 6 else host


def _free_port(door: Door) -> int:
    """The port, or any free one for 0: an error should not have to wait for a model. Raises: PtuneError."""
    with bind(door.host, door.port) as probe:
        found: int = probe.getsockname()[1]
        return found


def require_ray() -> None:
    """Raises: UsageError where Ray Serve is not installed."""
    if find_spec("ray") is None:
        raise UsageError("--ray serves on Ray, which is not installed here: pip install 'ptune[serve,ray]'")


@contextlib.contextmanager
def _cluster(arguments: Arguments, address: str) -> Iterator[None]:
    """Connected to a cluster for the duration of the block; one of its own ends with it. Raises: PtuneError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what this machine does is nobody else's business
    import ray
    from ray import serve

    own: dict[str, Any] = {}
    if address == LOCAL:
        most = arguments.max_replicas or arguments.replicas
        own = {
            "include_dashboard": False,
            "num_cpus": max(available_cores(), math.ceil(most * arguments.replica_cpus)),
        }
    try:
        ray.init(address=address, logging_level="WARNING", **own)
    except Exception as error:
        raise PtuneError(f"no Ray cluster at {address}: {_first_line(error)}") from None
    try:
        yield
    finally:
        if address == LOCAL:
            with contextlib.suppress(Exception):  # it ends anyway
                serve.delete(NAME)  # returns when the answers in progress have ended
                serve.shutdown()
        ray.shutdown()


def deploy(arguments: Arguments, host: str, port: int) -> None:
    """Starts or updates the application, and waits until it answers. Raises: PtuneError."""
    from ray import serve

    from .application import application

    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(http_options={"host": host, "port": port}, proxy_location="EveryNode", logging_config=quiet)
    try:
        serve.run(application(_resolved(arguments)), name=NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments.values()
        said = "\n".join([str(error), *(deployment.message for deployment in deployments)])
        raise PtuneError(f"{arguments.bundle} cannot be served on Ray: {_reason(said)}") from None


class _Stopped(BaseException):
    """A signal has come. A BaseException, so that no `except Exception` swallows it."""


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the block, which then closes what it opened. Another signal does what it did before."""
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        raise _Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, stop)
    try:
        yield
    except _Stopped:
        print("Stopping: answers in progress may end first.", flush=True)
    finally:
        restore()


def _for_host(arguments: Arguments, host: str) -> Arguments:
    """With the names that clients may call the server by, where it is for this machine alone and asks for no key."""
    with bind(host, 0) as probe:
        hosts = local_names(host, probe)
    if not hosts or arguments.api_key_file is not None:
        return arguments
    return arguments.model_copy(update={"settings": {**arguments.settings, "hosts": sorted(hosts)}})


def _resolved(arguments: Arguments) -> Arguments:
    """With whole paths: replicas run in folders of their own."""
    keys = arguments.api_key_file
    settings, engine = {**arguments.settings}, {**arguments.engine}
    for given, name in ((settings, "adapter_root"), (engine, "draft_model"), (engine, "kv_disk")):
        if (path := given.get(name)) is not None:
            given[name] = str(Path(path).resolve())
    return arguments.model_copy(
        update={
            "bundle": arguments.bundle.resolve(),
            "api_key_file": None if keys is None else keys.resolve(),
            "settings": settings,
            "engine": engine,
        }
    )


def _replicas(arguments: Arguments) -> str:
    most = arguments.max_replicas or arguments.replicas
    if most == arguments.replicas:
        return f"{most} replica{'s' if most > 1 else ''}"
    return f"{arguments.replicas} to {most} replicas"


def _reason(said: str) -> str:
    """Why a replica did not start, out of what Ray says: the last of our own errors, or all of it."""
    ours = re.findall(r"ptune\.errors\.\w+: (.+)", said)
    return str(ours[-1]) if ours else said


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
