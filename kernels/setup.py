"""Builds the library of operators: one shared library for all Pythons, since it knows onnxruntime's C interface alone."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HEADER = "onnxruntime_c_api.h"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include")


def folder_of_header() -> str:
    """Where onnxruntime's C header lies. Raises: SystemExit where it is nowhere."""
    places = [named] if (named := os.environ.get("ONNXRUNTIME_INCLUDE")) else PLACES
    for place in places:
        if (Path(place) / HEADER).is_file():
            return place
    raise SystemExit(
        f"{HEADER} is in none of {', '.join(places)}: install it (Debian: apt install libonnxruntime-dev), or name its"
        " folder: ONNXRUNTIME_INCLUDE=FOLDER"
    )


class BuildLibrary(build_ext):
    """A shared library whose name does not tell a Python, and that needs none."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extensions(self) -> None:
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            raise SystemExit("a C++ compiler is needed (Debian: apt install g++), or name one: CXX=PROGRAM")
        super().build_extensions()


class AnyPython(bdist_wheel):
    """A wheel for one kind of processor and system, and for every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    building = {"build_ext", "bdist_wheel", "install", "develop", "editable_wheel"} & {*sys.argv}
    library = Extension(
        "ptune_kernels.operators",
        sorted(str(path) for path in Path("src").glob("*.cpp")),
        depends=sorted(str(path) for path in Path("src").glob("*.h")),
        include_dirs=["src", *([folder_of_header()] if building else [])],
        # No contraction: a fused multiply-add rounds otherwise than the plain graph.
        extra_compile_args=[
            "-std=c++17",
            "-O2",
            "-g0",
            "-fvisibility=hidden",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-pthread",
        ],
        extra_link_args=["-pthread"],
        language="c++",
    )
    setup(ext_modules=[library], cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython})
