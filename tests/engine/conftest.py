from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

SOURCES = Path(__file__).parents[2] / "kernels"


@pytest.fixture
def any_kernel() -> Iterator[Any]:
    """The package ptune_kernels, which computes with its best kernel again afterwards."""
    import ptune_kernels

    yield ptune_kernels
    ptune_kernels.use_kernel(None)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The operators, compiled anew with the instructions of AMX and AVX-VNNI written out: chooses a kernel, returns the library."""
    folder = tmp_path_factory.mktemp("emulated")
    build = [f"--build-lib={folder}", f"--build-temp={folder}"]
    flags = dict.fromkeys(("CFLAGS", "CXXFLAGS"), "-DPTUNE_EMULATED_TILES -DPTUNE_EMULATED_AVX_VNNI")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *build],
        cwd=SOURCES,
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"ptune-kernels cannot be compiled here: {done.stderr.strip().splitlines()[-1]}")
    library = folder / "ptune_kernels" / "operators.so"

    def choose(name: str) -> Path:
        if not ctypes.CDLL(str(library)).ptune_use_kernel(name.encode()):
            pytest.skip(f"this processor lacks what the kernel {name} needs beside it")
        return library

    return choose


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    from support import tiny_bundle  # torch, transformers and onnx: only for the tests that ask for a bundle

    return tiny_bundle.make(tmp_path_factory.mktemp("bundle"))
