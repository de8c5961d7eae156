"""Runs an image as a container would be: process 1, its own user, no capability, read-only files, no network but loopback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("unshare", "nsenter", "ip", "chroot")
START_LIMIT_S = 300
FAILED_TO_CONFINE = 99

_CONFINE = """
set -e
root=$1 tmp=$2; shift 2
ip link set lo up
mount --make-rprivate /
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o "remount,bind,$3" "$root$2"
    shift 3
done
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /sys "$root/sys"
[ -z "$tmp" ] || mount -t tmpfs tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
if touch "$root/written" 2>/dev/null; then exit 99; fi
exec chroot "$root" "$@"
"""
_ASK = """
import sys, urllib.request as u
u.install_opener(u.build_opener(u.ProxyHandler({})))
body = sys.argv[2].encode() or None
print(u.urlopen(u.Request(sys.argv[1], body, {"Content-Type": "application/json"}), timeout=60).read().decode())
"""


@dataclass(frozen=True)
class Image:
    root: Path
    config: Mapping[str, Any]  # as Docker has it: User, Env, Entrypoint, Healthcheck, …

    def size_bytes(self) -> int:
        """Of all files, hard links once."""
        sizes = {}
        for path in self.root.rglob("*"):
            told = path.lstat()
            sizes[told.st_ino] = told.st_size
        return sum(sizes.values())

    def has(self, package: str) -> bool:
        """Whether a Python package of that name is anywhere in it."""
        return any(True for _ in self.root.rglob(f"site-packages/{package}"))

    def as_its_user(self, words: Sequence[str]) -> list[str]:
        """The command, with the image's user and environment."""
        uid, gid = self.config["User"].split(":")
        user = ["--reuid", uid, "--regid", gid, "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
        return ["setpriv", *user, "env", "-i", f"--chdir={self.config.get('WorkingDir') or '/'}",
                *self.config["Env"], *words]  # fmt: skip

    def command(
        self, words: Sequence[str], *, mounts: Sequence[tuple[Path, str, str]] = (), tmp: bool = False
    ) -> list[str]:
        """What runs its entry point with these words. mounts: (folder, its place, "ro" or "rw"). tmp: a /tmp to write to."""
        bound = [str(word) for mount in mounts for word in mount]
        started = self.as_its_user([*self.config["Entrypoint"], *words])
        own = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        return [*own, "sh", "-c", _CONFINE, "sh", str(self.root), "tmp" * tmp, *bound, "--", *started]

    @contextlib.contextmanager
    def running(self, words: Sequence[str] = (), **options: Any) -> Iterator[Container]:
        """Started, and killed at the end unless it has ended."""
        command = self.command(words, **options)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield Container(self, process)
            finally:
                process.kill()


@dataclass(frozen=True)
class Container:
    image: Image
    process: subprocess.Popen[str]

    def pid(self) -> int:
        """Of its process 1, seen from outside; 0 before there is one."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return int(children[0]) if children else 0

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in it, as its user."""
        entered = ["nsenter", "--target", str(self.pid()), "--mount", "--net", "--pid", "--root"]
        return subprocess.run(
            [*entered, *self.image.as_its_user(words)], capture_output=True, text=True, timeout=120
        )

    def is_healthy(self) -> bool:
        """What the image's own health check says."""
        kind, *words = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.pid() > 0 and self.inside(*words).returncode == 0

    def wait_until_healthy(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while not self.is_healthy():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < limit, "it is not healthy"
            time.sleep(0.5)

    def ask(self, url: str, body: object = None) -> str:
        """The answer over HTTP, asked from inside."""
        said = self.inside("python", "-c", _ASK, url, "" if body is None else json.dumps(body))
        assert said.returncode == 0, said.stderr
        return said.stdout.strip()

    def stop(self, number: int) -> tuple[int, str]:
        """Sends process 1 a signal; its exit code, and all that it printed."""
        subprocess.run(["kill", f"-{number}", str(self.pid())], check=True)
        said, _ = self.process.communicate(timeout=120)
        return self.process.returncode, said
