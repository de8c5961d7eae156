"""What the jobs are made of, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ptune.cli import main
from ptune.errors import PtuneError, UsageError


@pytest.mark.parametrize(
    ("machines", "workers", "each"),
    [([8, 8], 2, 8), ([8, 8], 3, 4), ([8, 4, 0], 2, 4), ([8, 4], 3, 4), ([64, 2], 2, 32), ([3], 2, 1)],
)
def test_processors_are_shared_evenly(machines: list[int], workers: int, each: int) -> None:
    from ptune.cluster.connection import cpus_each

    assert cpus_each(machines, workers) == each


@pytest.mark.parametrize(
    ("machines", "workers", "kind"), [([2, 1], 4, PtuneError), ([], 1, PtuneError), ([2], 0, UsageError)]
)
def test_more_workers_than_processors_are_refused(
    machines: list[int], workers: int, kind: type[PtuneError]
) -> None:
    from ptune.cluster.connection import cpus_each

    with pytest.raises(kind, match="workers"):
        cpus_each(machines, workers)


def test_processes_find_each_other_by_the_first() -> None:
    from ptune.cluster.ranks import environments

    places = [("10.0.0.1", 4001), ("10.0.0.2", 4002), ("10.0.0.1", 4003)]
    found = environments(places, gpus=False)
    assert [one["RANK"] for one in found] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "0", "1"]
    assert [one["LOCAL_WORLD_SIZE"] for one in found] == ["2", "1", "2"]
    assert {one["WORLD_SIZE"] for one in found} == {"3"}
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in found} == {("10.0.0.1", "4001")}
    assert [one["LOCAL_RANK"] for one in environments(places, gpus=True)] == ["0", "0", "0"]
    assert environments(places[:1], gpus=False) == [{}]  # one process needs no group


def test_a_part_is_gone_on_with_behind_its_last_whole_line(tmp_path: Path) -> None:
    from ptune.cluster.part_file import part_file

    output = tmp_path / "out.jsonl"
    with part_file(output, "a" * 32) as part:
        assert part.lines == 0
        part.append(['{"n": 1}', '{"n": "ü"}'])
    with part.path.open("ab") as file:
        file.write(b'{"n": ')  # killed here
    with part_file(output, "b" * 32) as other:
        assert other.lines == 0
    with part_file(output, "a" * 32) as part:
        assert part.lines == 2
        with pytest.raises(PtuneError, match="another process is writing"), part_file(output, "a" * 32):
            pass
        part.append(['{"n": 3}'])
        assert not output.exists()
        part.complete()
    assert output.read_text(encoding="utf-8") == '{"n": 1}\n{"n": "ü"}\n{"n": 3}\n'


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--output", "o", "--ray", "ray://head:10001"],
            2,
            "start the command on one of the cluster's machines",
        ),
        (["--output", "o", "--ray", "head"], 2, "an address is HOST:PORT"),
        (["--output", "o", "--ray", "127.0.0.1:1"], 1, "no Ray cluster answers at 127.0.0.1:1"),
        (["--ray"], 2, "--ray needs --output"),
        (["--workers", "2", "--output", "o"], 2, "--workers is for --ray"),
    ],
)
def test_what_is_asked_wrongly_is_told_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello"}\n')
    from ptune.cluster.answers import Answering

    monkeypatch.setattr(Answering, "of", lambda *given: Answering(given[0], "", *given[1:]))
    assert main(["generate", "bundle", "--input", "rows.jsonl", *words]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "train", "tune"])
def test_without_ray_the_extra_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "ray" or "ptune.cluster" in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    words = {
        "generate": ["bundle", "--input", "rows.jsonl", "--output", "out.jsonl"],
        "train": ["chat_lora"],
        "tune": ["chat_lora", "--space", "method.r=2|4"],
    }
    assert main([command, *words[command], "--ray"]) == 1
    assert "ray is not installed; run: pip install 'ptune[ray]'" in capsys.readouterr().err


def test_ray_is_imported_where_it_is_asked_for_alone() -> None:
    code = "import sys, ptune.cli.generate, ptune.cli.train, ptune.cli.tune; assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
