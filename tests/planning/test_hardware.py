"""Amounts of memory as users write them, cards by name, limits of control groups."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.config.cards import GPUS
from ptune.config.memory_size import parse_bytes
from ptune.engine.memory import most_bytes, ram_bytes
from ptune.errors import UsageError
from ptune.planning.hardware import (
    GIB,
    card_for,
    computes_in,
    gpu_bytes,
    usable,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("24GB", 24 * 10**9), ("24 GiB", 24 * GIB), ("1.5g", 1_500_000_000), ("800 MB", 8 * 10**8), ("7", 7)],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "much", "GB", "-3GB", "0GB", "24 XB", "24i", "1e9"])
def test_what_is_no_amount_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="24GB"):
        parse_bytes(text)


@given(st.text())
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_bytes(text) >= 0


def test_cards_are_known_with_and_without_their_maker() -> None:
    expected = usable(24 * GIB)
    for name in ("RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "24GB", "24 GiB"):
        assert gpu_bytes(name) == expected, name
    assert all(gpu_bytes(name) == usable(amount * GIB) for name, amount in GPUS.items())


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'RTX 4090'.*--gpu 24GB"):
        gpu_bytes("RTX 4091")
    with pytest.raises(UsageError, match="no card 'abacus'"):
        gpu_bytes("abacus")


def test_cards_before_2020_have_no_bfloat16() -> None:
    for name in ("T4", "NVIDIA Tesla V100", "GeForce RTX 2080 Ti", "rtx 2060"):
        assert computes_in(name) == "float16", name
    for name in ("GTX 1080 Ti", "Tesla P100"):
        assert computes_in(name) == "float32", name
    for name in ("RTX 3060", "A100", "L4", "24GB"):
        assert computes_in(name) == "bfloat16", name


def test_the_least_card_that_holds_it_is_named() -> None:
    assert card_for(int(0.9 * usable(12 * GIB))) == ("RTX 3060", 12)
    assert card_for(int(0.99 * usable(12 * GIB))) == ("RTX 4060 Ti", 16)
    assert card_for(10**12) is None


def test_memory_is_what_is_available_or_what_the_group_may_still_have(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    assert ram_bytes(tmp_path) == 500 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert ram_bytes(tmp_path) == 500 * 1024
    (group / "memory.max").write_text("300000\n")
    assert ram_bytes(tmp_path) == 299000


@pytest.mark.parametrize("limit", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_may_have_less_than_the_machine(tmp_path: Path, limit: str) -> None:
    machine = most_bytes(tmp_path)
    (tmp_path / "sys/fs/cgroup" / limit).parent.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup" / limit).write_text("max\n")
    assert most_bytes(tmp_path) == machine
    (tmp_path / "sys/fs/cgroup" / limit).write_text("4096000\n")
    assert most_bytes(tmp_path) == 4_096_000
