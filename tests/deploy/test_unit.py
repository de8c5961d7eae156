"""The systemd unit: systemd's own reading of it, and its command."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.deploy_files import BUNDLE, CHAT, DEPLOY, program, served_by
from support.fake_chat_model import wait_until

UNIT = DEPLOY / "systemd" / "ptune.service"


def service() -> configparser.SectionProxy:
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read(UNIT)
    return read["Service"]


def test_its_command_is_one_that_ptune_takes() -> None:
    words = shlex.split(service()["ExecStart"].replace("$OPTIONS", "--kv-gb 2"))
    served = served_by([Path(words[0]).name, *words[1:]])
    assert (served.ui, served.host) == (False, "127.0.0.1")
    assert int(service()["TimeoutStopSec"]) > served.drain_s + 10


@pytest.fixture
def systemd_analyze() -> str:
    if (path := program("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze (Debian: apt install systemd)")
    return path


def test_systemd_reads_it(systemd_analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/ptune/bin/ptune", "/bin/true"), "utf-8")
    said = subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")


def test_it_is_well_confined(systemd_analyze: str) -> None:
    said = subprocess.run(
        [systemd_analyze, "security", "--offline=true", "--no-pager", UNIT], capture_output=True, text=True
    )
    level = re.search(r"Overall exposure level for ptune.service: ([\d.]+)", said.stdout)
    assert level is not None
    assert float(level[1]) < 2  # systemd: 0 is none, 10 everything


REFUSE_EXEC_GAIN = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE
    sys.exit("this kernel cannot")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_server_needs_no_memory_that_is_first_written_and_then_run(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute=, which the unit asks for, as the kernel does it."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", REFUSE_EXEC_GAIN, "-m", "ptune", "serve", str(BUNDLE)]
    options = ["--port", "0", "--no-ui", "--threads", "1", "--kv-gb", "0.05", "--ready-file", str(ready)]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_until(lambda: ready.exists() or server.poll() is not None)
            if not ready.exists():
                why = server.communicate()[1]
                assert "this kernel cannot" in why, why
                pytest.skip("needs a kernel that can refuse it (6.3)")
            url = ready.read_text().strip()
            said = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60)
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert said.json()["usage"]["completion_tokens"] == 5
