"""A peer is let go line by line; one that stops says why, and stops nothing else."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import train, train_peer_side, train_peers
from benchmarks.sides import Measured

FAKE = """
import json, os, sys
print("loading", file=sys.stderr)
for number in range(int(sys.argv[1])):
    if sys.stdin.readline() != "next\\n":
        sys.exit()
    print(json.dumps({"number": number, "threads": os.environ["OMP_NUM_THREADS"]}), flush=True)
print("ValueError: no more of these\\nsome last remark", file=sys.stderr)
"""


def fake(steps: int, folder: Path) -> Iterator[Measured]:
    return train_peers.peer([sys.executable, "-c", FAKE, str(steps)], folder / "log")


def test_a_peer_takes_a_step_for_each_line(tmp_path: Path) -> None:
    steps = fake(5, tmp_path)
    assert [next(steps) for _ in range(2)] == [{"number": n, "threads": str(train.THREADS)} for n in range(2)]


def test_a_peer_that_stops_says_why(tmp_path: Path) -> None:
    steps = fake(1, tmp_path)
    next(steps)
    with pytest.raises(train_peers.StoppedError, match=r"^ValueError: no more of these$"):
        next(steps)


def test_a_first_step_is_tried(tmp_path: Path) -> None:
    assert train_peers.first_step(functools.partial(fake, 2, tmp_path)) is None
    assert train_peers.first_step(functools.partial(fake, 0, tmp_path)) == "ValueError: no more of these"


def test_both_files_say_the_same_work() -> None:
    for name in ("BATCH", "STEPS", "LR", "RANK", "ALPHA"):
        assert getattr(train_peer_side, name) == getattr(train, name)


def test_examples_are_packed_a_step_a_row(tmp_path: Path) -> None:
    rows = [{"ids": [n + 1] * 3, "targets": [False, True, True]} for n in range(train.BATCH + 1)]
    (tmp_path / "examples.json").write_text(json.dumps(rows))
    first, second = train_peer_side.packed(train_peer_side.examples(tmp_path))
    assert first["input_ids"] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0, 0, 0, 0]
    assert first["attention_mask"] == first["input_ids"]
    assert first["position_ids"] == [0, 1, 2] * 4 + [0] * 4
    assert second["labels"] == [-100, 5, 5, -100, -100, -100, -100, -100]


def test_other_work_is_told_apart() -> None:
    def steps(*losses: float) -> list[Measured]:
        return [{"loss": loss} for loss in losses]

    taken = {"ptune": steps(4.0, 3.0), "axolotl fp32": steps(4.0, 3.01), "axolotl bf16": steps(4.05, 3.0)}
    assert not train_peers.judgement("axolotl", "axolotl fp32", taken)["same_work"]
    assert train_peers.judgement("axolotl", "axolotl bf16", taken)["same_work"]
