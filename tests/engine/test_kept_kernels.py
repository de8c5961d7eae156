"""What an earlier process found of ptune-kernels and rewrote is used again, and only where all that it depends on is the same."""

from __future__ import annotations

import pwd
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.processor import needs_vnni

from ptune.engine import kept_kernels, kernels
from ptune.engine.kept_kernels import Kept, kept, processor
from ptune.formats import cache

from .test_kernels import write_product

TWICE = """
import sys
from pathlib import Path
from ptune.engine.kernels import kernels_for
path = Path(sys.argv[1])
own = kernels_for(path)
graph, count = own.rewrite(path)
Path(sys.argv[2]).write_bytes(graph)
print(own.name, own.reordered, count, "onnx_ir" in sys.modules)
"""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / kept_kernels.KIND


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "operators.so").write_bytes(b"machine code")
    return tmp_path / "package"


@pytest.fixture
def made() -> tuple[list[int], Callable[[], Kept]]:
    """How often it was made, and what makes it."""
    times: list[int] = []

    def make() -> Kept:
        times.append(len(times))
        return Kept({"operators": 2, "wrong": None}, b"nodes\n\0")

    return times, make


@pytest.mark.skipif(find_spec(kernels.PACKAGE) is None, reason="ptune-kernels is not built")
@needs_vnni
def test_the_next_process_neither_compares_nor_rewrites(cached: Path, tmp_path: Path) -> None:
    path = write_product(tmp_path, np.ones((64, 32), np.float32), norm=True)
    said, graphs = [], []
    for at in ("one", "two"):
        command = [sys.executable, "-c", TWICE, str(path), str(tmp_path / at)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        said.append(done.stdout.rsplit(maxsplit=1))
        graphs.append((tmp_path / at).read_bytes())
    assert said[0][0] == said[1][0]
    assert [one[1] for one in said] == ["True", "False"], "only the first reads graphs"
    assert graphs[0] == graphs[1]
    assert b"ptune" in graphs[0]


def test_it_is_made_once(cached: Path, package: Path, made: tuple[list[int], Callable[[], Kept]]) -> None:
    times, make = made
    first, again = (kept(package, ["int8", True], make) for _ in range(2))
    assert first == again == ({"operators": 2, "wrong": None}, b"nodes\n\0")
    assert times == [0]
    assert len([*cached.glob("*/store.json")]) == 1


def test_anything_else_is_made_anew(
    cached: Path,
    package: Path,
    made: tuple[list[int], Callable[[], Kept]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times, make = made

    def calls() -> int:
        kept_kernels._files.cache_clear()  # as in another process
        before = len(times)
        kept(package, {"graph": "a"}, make)
        kept(package, {"graph": "a"}, make)
        return len(times) - before

    assert calls() == 1
    assert calls() == 0
    kept(package, {"graph": "b"}, make)
    assert len(times) == 2
    (package / "operators.so").write_bytes(b"newer machine code")
    assert calls() == 1
    (package / "rewrite.py").write_bytes(b"")
    assert calls() == 1
    monkeypatch.setattr(onnxruntime, "__version__", "99.1.0")
    assert calls() == 1
    monkeypatch.setattr(kept_kernels, "processor", lambda: ["flags\t: sse2"])
    assert calls() == 1
    for file in cached.glob("*/graph.onnx"):
        file.write_bytes(b"nodes\n\1")
    assert calls() == 1, "it was damaged"


def test_what_is_not_all_right_is_found_anew(
    cached: Path, package: Path, made: tuple[list[int], Callable[[], Kept]]
) -> None:
    times, make = made
    for _ in range(2):
        kept(package, [], make, keeps=lambda found: not any(found.facts.values()))
    assert times == [0, 1]


def test_it_works_where_nothing_can_be_kept(
    package: Path,
    made: tuple[list[int], Callable[[], Kept]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "file"))
    times, make = made
    assert [kept(package, [], make) for _ in range(3)] == [
        ({"operators": 2, "wrong": None}, b"nodes\n\0")
    ] * 3
    assert times == [0, 1, 2]
    assert capsys.readouterr().err.count("nothing is kept in") == 1, "it is said once"


def test_it_works_for_a_user_without_a_home(
    package: Path, made: tuple[list[int], Callable[[], Kept]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container's user that is in no list of users: own operators were not used at all there."""
    monkeypatch.setattr(cache, "_say_once", lambda _: None)  # what it says once a process is for another test
    for name in ("HOME", "PTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()
    times, make = made
    assert kept(package, [], make).facts == {"operators": 2, "wrong": None}
    assert times == [0]


def test_processors_with_other_instructions_are_others(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    text = "processor\t: {at}\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\ncpu MHz\t: {mhz}\nflags\t: sse2 {flags}\n"
    found = []
    for mhz, flags in ((2400, "avx2"), (3100, "avx2"), (2400, "avx2 avx512f")):
        info.write_text(
            "\n".join(text.format(at=at, mhz=mhz, flags=flags) for at in range(4)), encoding="utf-8"
        )
        found.append(processor(info))
    assert found[0] == found[1] != found[2]
    assert found[0] == ["vendor_id\t: AuthenticAMD", "model name\t: EPYC", "flags\t: sse2 avx2"]
    assert processor(tmp_path / "missing")
