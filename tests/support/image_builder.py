"""Builds the Dockerfile's images with Buildah, on a small Debian made here instead of one from a registry."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.deploy_files import ROOT
from support.running_image import PROGRAMS, Image

BASE = "localhost/ptune-base"
OF_PYTHON = [
    "libffi8",
    "libreadline8t64",
    "libsqlite3-0",
]  # what one that is copied links to, besides Debian's own


def missing() -> str | None:
    """What this machine lacks to build and run images; None if nothing."""
    system = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    if system.get("ID") != "debian" or os.geteuid():
        return "root on Debian, to build images with Buildah and debootstrap"
    lacking = [name for name in ("buildah", "debootstrap", *PROGRAMS) if shutil.which(name) is None]
    if not any(Path(folder, "netavark").exists() for folder in ("/usr/lib/podman", "/usr/libexec/podman")):
        lacking.append("netavark")
    return f"{' '.join(lacking)} (Debian: apt install buildah debootstrap netavark)" if lacking else None


@dataclass(frozen=True)
class Builder:
    folder: Path  # for images and all that comes of building them

    def buildah(self, *words: str | Path) -> str:
        """What it prints. Raises: RuntimeError with the end of what it said."""
        places = ("--root", self.folder / "images", "--runroot", self.folder / "running")
        command = ["buildah", *places, "--storage-driver", self._driver(), *words]
        temporary = self.folder / "tmp"  # pip's cache, too, which would stay in /var/tmp
        temporary.mkdir(exist_ok=True)
        said = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}
        )
        if said.returncode:
            raise RuntimeError(f"buildah {words[0]}: {said.stdout[-3000:]}{said.stderr[-3000:]}")
        return said.stdout.strip()

    def make_base(self) -> None:
        """The image that stands for python:3.x-slim: Debian, and the Python that runs the tests."""
        debian = self.folder / "debian"
        own = sys.base_prefix != "/usr"
        packages = OF_PYTHON if own else ["python3", "python3-pip", "python3-venv"]
        include = f"--include={','.join(['ca-certificates', *packages])}"
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        subprocess.run(
            ["debootstrap", "--variant=minbase", include, suite, debian], check=True, capture_output=True
        )
        if own:
            _copy_python(debian)
        for name in (
            "usr/share/doc",
            "usr/share/locale",
            "usr/share/man",
            "var/cache/apt",
            "var/lib/apt/lists",
        ):
            shutil.rmtree(debian / name)  # as in the images that registries have
        made = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", made, debian, "/")
        self.buildah("commit", "--quiet", made, BASE)
        self.buildah("rm", made)
        shutil.rmtree(debian)

    def build(self, target: str) -> None:
        """One of the Dockerfile's targets, with this machine's pip settings."""
        self.buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker"),
            *("--build-arg", f"BASE={BASE}", "--target", target, "--tag", f"localhost/ptune-{target}"),
            *_limits(),
            *self._pip_settings(),
            ROOT,
        )

    @contextlib.contextmanager
    def opened(self, target: str) -> Iterator[Image]:
        """The image with its files below a folder."""
        name = self.buildah("from", "--pull=never", f"localhost/ptune-{target}")
        try:
            config = json.loads(self.buildah("inspect", name))["Docker"]["config"]
            yield Image(Path(self.buildah("mount", name)), config)
        finally:
            self.buildah("umount", name)
            self.buildah("rm", name)

    def remove(self) -> None:
        """All images and folders."""
        with contextlib.suppress(RuntimeError):
            self.buildah("rm", "--all")
            self.buildah("rmi", "--all", "--force")
        subprocess.run(["umount", self.folder / "images" / "overlay"], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _driver(self) -> str:
        return "overlay" if "overlay" in Path("/proc/filesystems").read_text() else "vfs"

    def _pip_settings(self) -> list[str]:
        """Options that give pip in the build what it is told here, and the files and folders that this names."""
        told = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        settings = dict(re.findall(r"(?m)^(?:global|install|user|site|:env:)\.([\w-]+)='(.*)'$", told))
        file = self.folder / "pip.conf"
        file.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]))
        words = [word for value in settings.values() for word in re.split(r"[\s,]|\\n", value)]
        named = {word for word in words if word.startswith("/") and Path(word).exists()}
        mounts = [f"{file}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(named))]
        return [word for mount in mounts for word in ("--volume", mount)]


def _limits() -> list[str]:
    """Options that leave a build this process's own limits; Buildah's are higher, and may not be granted."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    given = {name: resource.getrlimit(kind) for name, kind in kinds.items()}
    return [word for name, (soft, hard) in given.items() for word in ("--ulimit", f"{name}={soft}:{hard}")]


def _copy_python(debian: Path) -> None:
    """To /usr/local, where python:3.x-slim has its own, without tests and packages."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    here, there = Path(sys.base_prefix), debian / "usr" / "local"
    left_out = shutil.ignore_patterns("test", "idlelib", "site-packages", "__pycache__", "config-*")
    shutil.copytree(here / "lib" / version, there / "lib" / version, ignore=left_out, symlinks=True)
    for library in here.glob(f"lib/lib{version}*.so*"):
        shutil.copy(library, there / "lib", follow_symlinks=False)
    shutil.copy(here / "bin" / version, there / "bin")
    for name in ("python", "python3"):
        (there / "bin" / name).symlink_to(version)
    for command in (["ldconfig"], ["/usr/local/bin/python3", "-m", "ensurepip", "--default-pip"]):
        subprocess.run(["chroot", debian, *command], check=True, capture_output=True)
