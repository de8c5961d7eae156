"""What `ptune env` prints for a report of a bug."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune import __version__
from ptune.cli import env, main

CPUINFO = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx2 avx512f pni amx_tile\n"


def test_it_says_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--no-gpu"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["ptune"] == __version__
    assert said["numpy"][0].isdigit()
    assert {"python", "onnxruntime", "cores", "memory", "processor", "features"} <= set(said)
    assert "gpu" not in said


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "PACKAGES", ("no-such-package",))
    assert env.versions()["no-such-package"] == "not installed"


def test_the_processor_is_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\n")
    found = env.machine(tmp_path)
    assert (found["processor"], found["features"], found["memory"]) == (
        "Fast CPU",
        "avx2 avx512f amx_tile",
        "16.0 GiB",
    )


def test_a_machine_without_proc_is_no_error(tmp_path: Path) -> None:
    found = env.machine(tmp_path)
    assert found["memory"] == found["features"] == "unknown"
