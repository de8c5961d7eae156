"""The packages of ptune have an order: none imports one that imports it, not even for types alone."""

from __future__ import annotations

import grimp
from support.import_cycles import cycles, package_of, packages


def test_no_two_packages_import_each_other() -> None:
    graph = grimp.build_graph("ptune", exclude_type_checking_imports=False, cache_dir=None)
    edges = packages(graph)
    assert "ptune.tasks.chat" in edges
    assert "ptune.training" in edges["ptune.tasks.chat"], "the graph was read"
    assert cycles(edges) == []


def test_a_circle_is_seen() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": set()}
    assert cycles(edges) == [["b", "c"]]
    assert package_of("ptune.tasks.chat.work") == "ptune.tasks.chat"
    assert package_of("ptune.fine_tune") == "ptune.fine_tune"
    assert package_of("ptune.export.fuse.norms") == "ptune.export"
