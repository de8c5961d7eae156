"""The log of an export: whatever was written of it when it is read, the whole lines count."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import PtuneError
from ptune.formats.bundle import Hop
from ptune.formats.hop_log import Followed, hop_log, note_hops, note_stage, read_hop_log

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
figures = st.none() | st.floats(0, 1, allow_nan=False)
hops = st.builds(
    Hop,
    name=names,
    prompts=st.integers(0, 99),
    positions=st.integers(0, 99),
    max_abs_logprob=figures,
    top1=figures,
    limit=names,
    passed=st.booleans(),
    note=names,
)


@given(st.lists(st.tuples(names, hops, st.booleans()), max_size=6), st.data())
def test_a_log_cut_anywhere_is_its_whole_lines(
    entries: list[tuple[str, Hop, bool]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log" / "hops.jsonl"
        with hop_log(path):
            for adapter, hop, staged in entries:
                if staged:
                    note_stage(hop.name)
                note_hops(adapter, [hop])
        whole = path.read_bytes()
        expected: dict[str, list[Hop]] = {}
        for adapter, hop, _ in entries:
            if hop not in expected.get(adapter, []):
                expected.setdefault(adapter, []).append(hop)
        found = read_hop_log(path)
        assert found.hops == {name: tuple(kept) for name, kept in expected.items()}
        assert found.stages == tuple(hop.name for _, hop, staged in entries if staged)
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        part = read_hop_log(path)
        assert part.stages == found.stages[: len(part.stages)]
        for adapter, kept in part.hops.items():
            assert kept == found.hops[adapter][: len(kept)]
        assert sum(map(len, part.hops.values())) + len(part.stages) == whole[:cut].count(b"\n")


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_it_is_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hops.jsonl"
        path.write_bytes(content + b'\n{"stage": "the engine"}\n')
        assert read_hop_log(path).stages[-1:] == ("the engine",)


def test_a_log_that_nobody_keeps_holds_nothing(tmp_path: Path) -> None:
    hop = Hop(name="a → b", prompts=1, positions=1, limit="", passed=True)
    with hop_log(None):
        note_hops("base", [hop])
    note_stage("the engine")
    assert read_hop_log(tmp_path / "hops.jsonl") == Followed()


def test_a_log_where_no_file_can_be_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PtuneError, match="cannot write"), hop_log(tmp_path / "file" / "hops.jsonl"):
        pass
