"""`ptune generate --ray`: the plain command's bytes, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptune.cli import main

from .conftest import Machines

ROWS = 450
OPTIONS = ["--max-tokens", "12", "--temperature", "0.7", "--seed", "5"]
DYING = """
import os, signal, sys
from ptune.cli import main
from ptune.cluster.part_file import PartFile
append = PartFile.append
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it

def dying(self, lines):
    append(self, lines)
    if self.lines >= int(sys.argv[1]):
        self._file.write(b'{"half a row": "')
        self._file.flush()
        os.kill(os.getpid(), signal.Signals[sys.argv[2]])
PartFile.append = dying
raise SystemExit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, rows.jsonl, and plain.jsonl, which the command writes without Ray."""
    from support import tiny_bundle

    from ptune.engine.decoder import golden
    from ptune.engine.decoder.engine import Engine
    from ptune.formats.bundle import Bundle
    from ptune.formats.whole_write import write_json
    from ptune.publish.steps import enter_golden

    folder = tmp_path_factory.mktemp("answers")
    tiny_bundle.make(folder / "bundle")
    tiny_bundle.add_codec(folder / "bundle", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    bundle = Bundle.open(folder / "bundle")
    with contextlib.closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        recorded = golden.record(engine, [[5, 6, 7]], ["base", "wide", "narrow"])
    (bundle.folder / "golden").mkdir()
    write_json(bundle.folder / "golden" / "golden.json", recorded)
    enter_golden(bundle)
    rows = [
        {"messages": [{"role": "user", "content": f"What is {i}?"}], "id": i}
        if i % 3
        else {
            "prompt": f"One {i}",
            "adapter": ("base", "wide", "narrow")[i % 9 // 3],
            "max_tokens": 9 + i % 5,
        }
        for i in range(ROWS)
    ]
    rows[7]["adapter"] = "nobody"  # answered by an error, as without Ray
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = [str(folder / "bundle"), "--input", str(folder / "rows.jsonl"), "--output"]
    assert main(["generate", *plain, str(folder / "plain.jsonl"), *OPTIONS]) == 0
    return folder


def words(folder: Path, output: str, address: str) -> list[str]:
    files = ["--input", str(folder / "rows.jsonl"), "--output", str(folder / output)]
    return ["generate", str(folder / "bundle"), *files, *OPTIONS, "--ray", address]


ONE_AFTER_ANOTHER = ("--workers", "1")  # several may have answered the rest before the first piece is written


def die(folder: Path, output: str, address: str, at: int, by: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process that gets a signal when so many rows are written."""
    command = [sys.executable, "-c", DYING, str(at), by, *words(folder, output, address), *ONE_AFTER_ANOTHER]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_lost_machine_changes_no_byte(
    folder: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptune.cluster.part_file import PartFile

    append, left = PartFile.append, ["a machine"]

    def losing(self: PartFile, lines: list[str]) -> None:
        append(self, lines)
        if left:
            left.clear()
            machines.lose("Answerer")

    monkeypatch.setattr(PartFile, "append", losing)
    assert main([*words(folder, "lost.jsonl", machines.address), *ONE_AFTER_ANOTHER]) == 0
    said = capsys.readouterr()
    assert (folder / "lost.jsonl").read_bytes() == (folder / "plain.jsonl").read_bytes()
    assert "a worker was lost" in said.err
    assert said.out == ""
    machines.add()


def test_a_killed_command_goes_on_where_it_was(folder: Path, machines: Machines) -> None:
    killed = die(folder, "killed.jsonl", machines.address, 40, "SIGKILL")
    assert killed.returncode == -9, killed.stderr
    assert not (folder / "killed.jsonl").exists()
    [part] = folder.glob("killed.jsonl.*.part")
    assert part.read_bytes().endswith(b'{"half a row": "')
    written = part.stat().st_ino
    assert main(words(folder, "killed.jsonl", machines.address)) == 0
    assert (folder / "killed.jsonl").read_bytes() == (folder / "plain.jsonl").read_bytes()
    assert (folder / "killed.jsonl").stat().st_ino == written  # the same file, grown on
    assert not part.exists()


def test_ctrl_c_leaves_what_goes_on(
    folder: Path, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = die(folder, "stopped.jsonl", machines.address, 90, "SIGINT")
    assert stopped.returncode == 130
    assert "of 450 rows are answered; the same command goes on\n" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    other = [*words(folder, "stopped.jsonl", machines.address), "--seed", "6"]
    assert main(other) == 0  # other answers: nothing of the part is taken
    assert "was begun with other rows or options" in capsys.readouterr().err
    assert (folder / "stopped.jsonl").read_bytes() != (folder / "plain.jsonl").read_bytes()
    assert main(words(folder, "stopped.jsonl", machines.address)) == 0
    assert (folder / "stopped.jsonl").read_bytes() == (folder / "plain.jsonl").read_bytes()
