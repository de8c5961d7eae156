"""A graph that is opened again is not rewritten again, until its files are others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ptune.engine.kernels import Kernels, rewritten


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"nodes")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    return tmp_path / "model.onnx"


def test_it_is_rewritten_once_for_each_way_and_content(graph: Path) -> None:
    seen: list[tuple[bytes, bool]] = []

    def rewrite(path: Path, attends: bool) -> tuple[bytes, int]:
        seen.append((path.read_bytes() + path.with_name("model.onnx.data").read_bytes(), attends))
        return b"own " + path.read_bytes(), 1

    own = Kernels("avx512", graph, partial(rewritten, rewrite, attends=True), ("attention",))
    assert [kernels.rewrite(graph) for kernels in (own, own, own.exact(), own.exact())] == [
        (b"own nodes", 1)
    ] * 4
    assert seen == [(b"nodesweights", True), (b"nodesweights", False)]
    graph.write_bytes(b"other nodes")
    assert own.rewrite(graph) == (b"own other nodes", 1)
    graph.with_name("model.onnx.data").write_bytes(b"other weights")
    own.rewrite(graph)
    assert seen[2:] == [(b"other nodesweights", True), (b"other nodesother weights", True)]


def test_a_graph_that_cannot_be_rewritten_is_tried_again(graph: Path) -> None:
    tries: list[Path] = []

    def rewrite(path: Path) -> tuple[bytes, int]:
        tries.append(path)
        raise ValueError("no graph")

    for _ in range(2):
        with pytest.raises(ValueError, match="no graph"):
            rewritten(rewrite, graph)
    assert len(tries) == 2
